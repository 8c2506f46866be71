"""From what has been measured to tables, and to a section of bench/RESULTS.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.speed.machine import sentence
from bench.speed.results import Ran, Table

VERDICTS = {True: "met", False: "**missed**", None: ""}
# What writes each kind of section.
SCRIPTS = {
    "speed": "scripts/bench",
    "load": "scripts/load",
    "soak": "scripts/soak",
    "balance": "scripts/balance",
    "sizing": "scripts/sizing",
    "gpu": "scripts/gpu",
}
RATIOS = "Figures are ratios of medians taken in turns in one run; in brackets the quartiles of the pairs."


class NoMarkers(Exception):
    """The file has no place for the section, or not exactly one."""


def target_table(pieces: Iterable[Ran]) -> str:
    """What was asked for, what was measured, and whether that is enough."""
    rows = [
        [row.what, row.wanted(), row.shown(), VERDICTS[row.met]] for ran in pieces for row in ran.result.rows
    ]
    return markdown(["what", "target", "measured", ""], rows)


def failures(pieces: Iterable[Ran]) -> list[str]:
    """A line for each piece that has failed."""
    return [f"{ran.piece} failed: {ran.error.strip().splitlines()[-1]}" for ran in pieces if ran.error]


def section(
    title: str,
    pieces: Sequence[Ran],
    pictures: Sequence[tuple[str, str]] = (),
    kind: str = "speed",
    remark: str = RATIOS,
) -> str:
    """Everything, as Markdown. `pictures`: caption and path of each plot, as seen from the file. `remark`: what the
    figures are."""
    parts = [f"## {kind.capitalize()}: {title}"]
    for machine, names in _machines(pieces):
        which = "" if len(names) == len(pieces) else f" ({', '.join(names)})"
        parts.append(f"{machine}{which}.")
    beside = max((ran.machine.get("others", {}).get("busy_cores", 0.0) for ran in pieces), default=0.0)
    stolen = max((ran.machine.get("others", {}).get("stolen_cores", 0.0) for ran in pieces), default=0.0)
    parts.append(
        f"Other processes had at most {beside:.2f} cores while a piece ran, the host took {stolen:.2f}. {remark}"
    )
    parts.append(target_table(pieces))
    parts += failures(pieces)
    for ran in pieces:
        for table in ran.result.tables:
            parts.append(f"**{table.title}**")
            if table.rows:
                parts.append(markdown(table.head, table.rows))
            if table.note:
                parts.append(table.note)
    parts += [f"![{caption}]({path})" for caption, path in pictures]
    return "\n\n".join(parts)


def terminal(title: str, pieces: Sequence[Ran]) -> str:
    """The tables for a terminal."""
    parts = [title, target_table(pieces), *failures(pieces)]
    for ran in pieces:
        parts += [table_text(table) for table in ran.result.tables]
    return "\n\n".join(parts)


def table_text(table: Table) -> str:
    rows = [markdown(table.head, table.rows)] if table.rows else []
    return "\n".join([f"{table.title}:", *rows, *([table.note] if table.note else [])])


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns stand below each other in a terminal too. Three dashes are the shortest rule."""
    lines = [list(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(head))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def markers(name: str, kind: str = "speed") -> tuple[str, str]:
    return f"<!-- {kind} {name}: begin, written by {SCRIPTS[kind]} -->", f"<!-- {kind} {name}: end -->"


def replace_section(text: str, name: str, body: str, kind: str = "speed") -> str:
    """`text` with `body` between the markers of `name`; both stay. Text without them gets them at its end.

    Raises:
        NoMarkers: only one of them is there, one is there twice, or they are the wrong way round.
    """
    begin, end = markers(name, kind)
    if begin not in text and end not in text:
        return f"{text.rstrip()}\n\n{begin}\n{body}\n{end}\n"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise NoMarkers(f"the markers {begin} and {end} are needed once each, in this order")
    before, after = text[: text.index(begin)], text[text.index(end) :]
    return f"{before}{begin}\n{body}\n{after}"


def write_section(path: Path, name: str, body: str, kind: str = "speed") -> None:
    """As `replace_section`, in a file.

    Raises:
        NoMarkers: see there.
    """
    path.write_text(replace_section(path.read_text(encoding="utf-8"), name, body, kind), encoding="utf-8")


def _machines(pieces: Sequence[Ran]) -> list[tuple[str, list[str]]]:
    """Each machine with a date, and the pieces that were measured on it then."""
    found: dict[str, list[str]] = {}
    for ran in pieces:
        found.setdefault(f"{ran.date[:10]}: {sentence(ran.machine)}", []).append(ran.piece)
    return list(found.items())
