"""A `Segmentation` as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from florence2_sam2.client import FilteredObject, Segmentation

# reason → (what is compared, parameter that decides it, what to do about it)
_THRESHOLDS = {
    "area": ("{ratio:.3g} > {limit:g}", "area_threshold", "raise --area-threshold"),
    "confidence": ("{score:.3g} < {limit:g}", "confidence_threshold", "lower --confidence-threshold"),
    "nms": ("overlaps {winner} by more than {limit:g}", "nms_threshold", "raise --nms-threshold"),
}
_EXPLAINED = {
    "empty_mask": "SAM2 found no pixel of it",
    "degenerate_box": "its box has no area within the picture",
}
_WIDTH = 100


def describe(result: Segmentation, picture: str, written: Sequence[str] = ()) -> str:
    """Caption, objects, what was left out and why, warnings, times, files."""
    blocks = [f"{picture}  {result.width}×{result.height}"]
    if result.caption:
        source = f" ({result.caption_source})" if result.caption_source else ""
        blocks.append(_wrapped(f"caption{source}: {result.caption}"))
    blocks.append(
        _objects(result) if result.objects else "  nothing kept" if result.filtered else "  nothing found"
    )
    if result.filtered:
        rows = [(item.label, why(item, result)) for item in result.filtered]
        blocks.append("  left out\n" + _table(rows, right=()))
    blocks += [_wrapped(f"warning: {warning}") for warning in result.warnings]
    if result.timings_ms:
        total = sum(result.timings_ms.values())
        stages = " · ".join(f"{stage} {value:.0f}" for stage, value in result.timings_ms.items())
        blocks.append(_wrapped(f"{total:.0f} ms: {stages}"))
    blocks += [f"  wrote {file}" for file in written]
    return "\n".join(blocks) + "\n"


def why(item: FilteredObject, result: Segmentation) -> str:
    """The reason an object was left out, and the flag that would keep it."""
    if item.reason not in _THRESHOLDS:
        return _EXPLAINED.get(item.reason, item.reason.replace("_", " "))
    comparison, parameter, remedy = _THRESHOLDS[item.reason]
    kept = item.suppressed_by
    winner = "a better object" if kept is None else f"object {kept + 1}, {result.objects[kept].label},"
    values = {
        "ratio": item.area_ratio,
        "score": item.score,
        "limit": result.parameters[parameter],
        "winner": winner,
    }
    return f"{item.reason} {comparison.format(**values)}: {remedy}"


def _objects(result: Segmentation) -> str:
    pixels = result.width * result.height
    rows = [("", "object", "score", "share", "parts")]
    for index, item in enumerate(result.objects, start=1):
        share = "" if item.mask_area is None else f"{item.mask_area / pixels:.1%}"
        parts = str(len(item.polygons)) if item.polygons else ""
        rows.append((str(index), item.label, "" if item.score is None else f"{item.score:.3f}", share, parts))
    return _table(rows, right=(0, 2, 3, 4))


def _table(rows: Sequence[tuple[str, ...]], right: tuple[int, ...]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("    " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")
