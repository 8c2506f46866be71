"""Exports of the small checkpoints, each made once for all tests that read it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.export.checks import Row
from florence2_sam2.export.run import export


@dataclass(frozen=True)
class Exported:
    """A repository that tests only read, its parity table, and what the exporter said."""

    repository: Path
    rows: list[Row]
    said: list[str]


def exported_in(form: str, checkpoints: Path, folder: Path) -> Exported:
    """`form`: a precision, or precision+int8 for Florence-2 alone with the 8-bit decoder."""
    precision, _, weights = form.partition("+")
    said: list[str] = []
    rows = export(
        folder / "repository",
        str(checkpoints / "florence2"),
        None if weights else str(checkpoints / "sam2"),
        precision=precision,
        decoder_weights=weights or "float",
        attention="fused",  # not as fast as it happens to be beside the other tests
        report=said.append,
    )
    return Exported(folder / "repository", rows, said)
