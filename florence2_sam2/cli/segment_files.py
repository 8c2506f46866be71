"""The files that `segment` writes, and what may be wrong with their names before anything is sent."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from florence2_sam2.cli import call_settings
from florence2_sam2.cli.results_file import ResultsError, form_of
from florence2_sam2.cli.sources import REMOTE
from florence2_sam2.client import Segmentation


def prints_json(arguments: argparse.Namespace) -> bool:
    """Whether answers are printed as JSON."""
    if arguments.json is not None or arguments.results is not None:
        return bool(arguments.json == "-")
    return not sys.stdout.isatty()


class PictureFiles:
    """Writes overlays and masks, each into a file of its own."""

    def __init__(self, overlay: str | None, mask: str | None) -> None:
        self._overlay, self._mask = overlay, None if mask == "-" else mask
        self._written: dict[str, str] = {}

    def write(self, result: Segmentation, picture: str) -> list[str]:
        """Write what is asked for; returns the files.

        Raises:
            ValueError: the answer lacks what is to be written, or another picture's file has that name.
            OSError: it cannot be written.
        """
        files = []
        if self._overlay:
            files.append(self._own(self._overlay, picture))
            result.overlay().save(files[-1])
        if self._mask:
            files.append(self._own(self._mask, picture))
            if result.mask_png is None:
                raise ValueError("the server's answer has no mask")
            Path(files[-1]).write_bytes(result.mask_png)
        return files

    def _own(self, template: str, picture: str) -> str:
        # A list on standard input is not known before, so that not all of this is found by `wrong_usage`.
        file = file_for(template, picture)
        if self._written.setdefault(file, picture) != picture:
            raise ValueError(
                f"{file} is {short(self._written[file])}'s already: two pictures have the same name"
            )
        if not picture.startswith(REMOTE) and Path(file).resolve() == Path(picture).resolve():
            raise ValueError(f"{file} is the picture itself and would be overwritten")
        return file


def wrong_usage(arguments: argparse.Namespace, pictures: Sequence[str]) -> str | None:
    """What is wrong with the combination of arguments, checked before anything is sent or written."""
    if not arguments.timeout > 0:
        return "--timeout: more than 0 seconds are needed"
    if arguments.invert_mask and not arguments.mask:
        return "--invert-mask: it goes with --mask"
    if wrong := call_settings.wrong_fetching(arguments):
        return wrong
    if arguments.concurrency < 1:
        return "--concurrency: at least 1 is needed"
    many = _wrong_results(arguments)
    if many:
        return many
    if arguments.mask == "-" and not (prints_json(arguments) or arguments.results):
        return "--mask: say which FILE the mask goes into, or print it within the JSON with --json"
    inputs = {Path(picture).resolve() for picture in pictures if not picture.startswith(REMOTE)}
    for option, endings in (("json", (".json", ".jsonl")), ("overlay", ()), ("mask", (".png",))):
        template = getattr(arguments, option)
        if template in (None, "-"):
            continue
        if endings and not template.lower().endswith(endings):
            # `--json a.jpg` most likely means the picture a.jpg: writing into it would destroy it.
            return f"--{option} {template}: FILE must end in {' or '.join(endings)}; pictures go before the options"
        files = [file_for(template, picture) for picture in pictures]
        if option != "json" and len(set(files)) < len(files):
            hint = "two pictures have the same name" if "{name}" in template else "write {name} in FILE"
            return f"--{option} {template}: {len(files)} pictures need a file each: {hint}"
        taken = next((file for file in files if Path(file).resolve() in inputs), None)
        if taken:
            return f"--{option}: {taken} is one of the pictures and would be overwritten"
        missing = next((file for file in files if not Path(file).parent.is_dir()), None)
        if missing:
            return f"--{option}: there is no folder {Path(missing).parent}"
        if option == "mask":
            colour = next((file for file in files if _is_colour_picture(file)), None)
            if colour:
                return (
                    f"--mask: {colour} is a picture, not a mask, and would be overwritten; pictures go first"
                )
        if option == "overlay":
            if Path(template).suffix.lower() not in Image.registered_extensions():
                return f"--overlay {template}: FILE must end in a picture's ending, like .png or .jpg"
            urls = [picture for picture in pictures if picture.startswith(REMOTE)]
            if urls and not arguments.fetch_here:
                return f"--overlay: {short(urls[0])} is fetched by the server only; to draw on it, use --fetch-here"
    return None


def _wrong_results(arguments: argparse.Namespace) -> str | None:
    for option, file in (("results", arguments.results), ("report", arguments.report)):
        if file is not None and not file.parent.is_dir():
            return f"--{option}: there is no folder {file.parent}"
    if arguments.report is not None and arguments.report.suffix.lower() not in (".html", ".htm"):
        return f"--report {arguments.report}: FILE must end in .html"
    if arguments.results is None:
        return "--restart goes with --results" if arguments.restart else None
    try:
        form = form_of(arguments.results)
    except ResultsError as error:
        return f"--results {error}"
    if arguments.mask and form != "jsonl":
        return (
            f"--results {arguments.results}: with --mask there are no objects to write, only .jsonl takes it"
        )
    if arguments.normalized and form == "coco":
        return "--normalized: COCO's coordinates are pixels"
    return None


def _is_colour_picture(file: str) -> bool:
    try:
        with Image.open(file) as image:
            return image.mode != "L"
    except (OSError, UnidentifiedImageError):
        return False


def file_for(template: str, picture: str) -> str:
    """`template` with {name} filled in."""
    if picture.startswith("data:"):
        name = "picture"
    elif picture.startswith(REMOTE):
        name = Path(urlsplit(picture).path).stem or "picture"
    else:
        name = Path(picture).stem
    return template.replace("{name}", name)


def short(picture: str) -> str:
    """A name for messages: data URLs are cut, they may have megabytes."""
    return picture[:40] + "…" if picture.startswith("data:") else picture
