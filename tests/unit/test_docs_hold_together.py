"""The documentation leads nowhere wrong, leaves nothing out, and is small: links, pictures, JSON, lists of names."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import re
from pathlib import Path
from typing import get_args

import pages
import pytest
from PIL import Image

from florence2_sam2.cli.main import COMMANDS
from florence2_sam2.client import Settings, errors, events
from florence2_sam2.postprocess.regions import Dropped
from florence2_sam2.server.launch.checks import PYTHONS
from florence2_sam2.server.metrics import DECLARED
from florence2_sam2.server.segment.request import Options

PICTURES = pages.DOCS / "pictures"
# Where each command's options are explained.
COMMAND_PAGES = {
    "segment": "cli.md",
    "bulk": "bulk.md",
    "playground": "cli.md",
    "health": "cli.md",
    "serve": "deployment.md",
    "export": "cli.md",
    "cache": "cli.md",
}
REASONS = {"area", "confidence", "nms", "empty_mask", "tile_border"} | set(get_args(Dropped))
MOST_NOT_RUN = 19  # blocks that start what does not end, download, or need what is not here


def text(page: str) -> str:
    """The page's text without its line ends."""
    return " ".join((pages.DOCS / page).read_text(encoding="utf-8").split())


@pytest.mark.parametrize("page", pages.LINKED, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in pages.links(page):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} leads to {link}, which is not there"
        assert target.is_relative_to(pages.ROOT)
        if anchor:
            assert anchor in pages.anchors(target), f"{page.name} leads to {link}: no such heading"


def test_every_page_is_found_from_the_readme_and_the_index() -> None:
    wanted = {page.name for page in pages.DOCS.glob("*.md")} - {"index.md"}
    assert wanted <= {Path(link).name for link in pages.links(pages.DOCS / "index.md")}
    assert "docs/index.md" in pages.links(pages.README)


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda page: page.name)
def test_json_is_json(page: Path) -> None:
    for block in pages.blocks(page):
        if block.language == "json":
            try:
                json.loads(block.text)
            except ValueError as error:
                pytest.fail(f"{block}: {error}")


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    marked = [block for page in pages.PAGES for block in pages.blocks(page) if block.not_run is not None]
    assert all(block.not_run for block in marked), [str(block) for block in marked if not block.not_run]
    assert len(marked) <= MOST_NOT_RUN
    marks = sum(page.read_text(encoding="utf-8").count("<!-- not run") for page in pages.PAGES)
    assert marks == len(marked), "a mark stands above no block"


def test_pictures_are_used_and_small() -> None:
    linked = {(page.parent / link).resolve() for page in pages.LINKED for link in pages.links(page)}
    files = sorted(PICTURES.iterdir())
    assert [file.name for file in files if file not in linked] == []
    assert [file.name for file in files if file.stat().st_size > 250_000] == []
    assert sum(file.stat().st_size for file in files) < 1_500_000
    for file in files:
        if file.suffix != ".svg":
            with Image.open(file) as image:
                image.verify()


def test_every_setting_of_the_call_is_explained() -> None:
    said = text("settings.md")
    assert Options.__dataclass_fields__.keys() <= Settings.__annotations__.keys()
    assert [name for name in Settings.__annotations__ if f"| `{name}`" not in said] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_explained(command: str) -> None:
    parser = argparse.ArgumentParser(add_help=False)
    importlib.import_module(COMMANDS[command][1]).add_arguments(parser)
    said = text(COMMAND_PAGES[command])
    flags = [action.option_strings for action in parser._actions if action.option_strings]
    assert [names for names in flags if not any(re.search(rf"{name}\b", said) for name in names)] == []


def test_every_reason_is_explained() -> None:
    # Polygons are none of `segment`'s.
    said = text("settings.md")
    assert [name for name in REASONS - {"degenerate_polygon"} if f"| `{name}` |" not in said] == []


def test_every_metric_is_listed() -> None:
    said = text("monitoring.md")
    assert [name for name in DECLARED if f"| `{name}` |" not in said] == []


def test_every_error_and_event_is_listed() -> None:
    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind.__module__ == errors.__name__
    ]
    assert [kind.__name__ for kind in kinds if f"`{kind.__name__}`" not in text("sdk.md")] == []
    told = get_args(events.Event)
    assert [kind.__name__ for kind in told if f"| `{kind.__name__}` |" not in text("formats.md")] == []
    assert all(dataclasses.is_dataclass(kind) for kind in told)


def test_the_pythons_are_those_of_the_server() -> None:
    named = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
    for page in ("quick-start.md", "deployment.md"):
        assert f"Python {named}" in text(page)
