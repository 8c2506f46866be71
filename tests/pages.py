"""The documentation's pages, taken apart: code blocks with their languages and marks, headings, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
# Pages that others lead to, and that lead to others.
LINKED = [
    *PAGES,
    *(ROOT / name for name in ("CHANGELOG.md", "SECURITY.md", "training/README.md", "bench/RESULTS.md")),
]

_FENCE = re.compile(r"```(\w*)")
_MARK = re.compile(r"<!--\s*not run:(.*)-->")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s+(\S+)$", re.MULTILINE)
_HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block. `line`: of its first line in the page, from 1. `not_run`: why it is not, None where it is."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The page's fenced blocks, in order. A mark stands in the line above the fence."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: tuple[int, str] | None = None
    for number, line in enumerate(lines, 1):
        fence = _FENCE.fullmatch(line)
        if fence is None:
            continue
        if opened is None:
            opened = number, fence[1]
            continue
        first, language = opened
        mark = _MARK.fullmatch(lines[first - 2].strip()) if first > 1 else None
        text = "\n".join(lines[first : number - 1]) + "\n"
        found.append(Block(page, first + 1, language, text, None if mark is None else mark[1].strip()))
        opened = None
    if opened is not None:
        raise ValueError(f"{page.name}:{opened[0]}: the block does not end")
    return found


def links(page: Path) -> list[str]:
    """Where the page's links and pictures lead to, those within code left out."""
    return [inline or defined for inline, defined in _LINK.findall(_without_code(page))]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the page's headings."""
    names = set()
    for heading in _HEADING.findall(_without_blocks(page)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        names.add(re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-"))
    return names


def _without_blocks(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def _without_code(page: Path) -> str:
    return re.sub(r"`[^`]*`", "", _without_blocks(page))
