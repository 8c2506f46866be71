"""What the page shows of a call, event by event."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from florence2_sam2.cli.report import why
from florence2_sam2.cli.watching import status
from florence2_sam2.client import (
    CaptionText,
    CaptionWritten,
    Event,
    Finished,
    ObjectDone,
    Segmentation,
)

OBJECT_COLUMNS = ("object", "score", "grounding score", "share", "parts")
FILTERED_COLUMNS = ("left out", "score", "grounding score", "why")
_LONGEST = 100  # of a text that is no polygon, in the JSON that is shown


@dataclass
class Shown:
    """The page's outputs. `picture`: the file that was given."""

    picture: str
    status: str = "…"
    caption: str = ""
    image: npt.NDArray[np.uint8] | None = None  # [H,W,3] RGB or [H,W] mask
    objects: list[list[Any]] = field(default_factory=list)
    filtered: list[list[Any]] = field(default_factory=list)
    document: str = ""

    def take(self, event: Event) -> bool:
        """Note an event; whether something worth showing has changed."""
        match event:
            case ObjectDone():
                return False  # milliseconds before the end
            case Finished():
                self._finish(event.result)
                return True
            case CaptionText():
                self.caption = event.text + " …"
            case CaptionWritten():
                self.caption = event.caption
        self.status = status(event)
        return True

    def fail(self, error: Exception) -> None:
        """Say what went wrong in the place of an answer."""
        self.__init__(self.picture, f"⚠ {error}")  # type: ignore[misc]

    def _finish(self, result: Segmentation) -> None:
        kept, out = len(result.objects), len(result.filtered)
        milliseconds = sum(result.timings_ms.values())
        things = "1 object" if kept == 1 else f"{kept} objects"
        self.status = f"{things}, {out} left out, {milliseconds:.0f} ms"
        if result.warnings:
            self.status += " · " + " · ".join(result.warnings)
        self.caption = result.caption or ""
        if result.mask_png:
            self.image = np.where(result.mask(), 255, 0).astype(np.uint8)
        else:
            self.image = np.asarray(result.overlay(self.picture))
        self.objects = [
            [
                item.label,
                _rounded(item.score),
                _rounded(item.grounding_score),
                "" if item.mask_area is None else f"{item.mask_area / (result.width * result.height):.1%}",
                len(item.polygons) or "",
            ]
            for item in result.objects
        ]
        self.filtered = [
            [item.label, _rounded(item.score), _rounded(item.grounding_score), why(item, result)]
            for item in result.filtered
        ]
        self.document = document_of(result.raw)


def document_of(raw: dict[str, Any]) -> str:
    """The answer as JSON, an object a line; a mask's URL is cut."""
    lines = []
    for name, value in raw.items():
        if isinstance(value, str) and value.startswith("data:") and len(value) > _LONGEST:
            value = f"{value[:_LONGEST]}… ({len(value)} characters)"
        if name in ("objects", "filtered") and value:
            rows = ",\n".join("    " + json.dumps(row, ensure_ascii=False) for row in value)
            lines.append(f'  "{name}": [\n{rows}\n  ]')
        else:
            lines.append(f'  "{name}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}"


def _rounded(score: float | None) -> float | str:
    return "" if score is None else round(score, 3)
