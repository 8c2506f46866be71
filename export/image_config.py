"""What an image processor's settings must be for the server, which resizes, divides by 255 and normalises."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from florence2_sam2.export.errors import ExportError

STEPS = ("do_resize", "do_rescale", "do_normalize")


def require_bytes_to_unit(config: Mapping[str, Any]) -> None:
    """Raises ExportError when values 0…255 do not become 0…1."""
    factor = config.get("rescale_factor", 1 / 255)
    if type(factor) not in (int, float) or abs(factor - 1 / 255) > 1e-9:
        raise ExportError(f"the image processor's rescale_factor is {factor!r}, not 1/255")


def triple(config: Mapping[str, Any], name: str, default: Any = None) -> tuple[float, float, float]:
    """`image_mean` or `image_std`: three finite numbers, deviations not zero.

    Raises:
        ExportError: it is something else.
    """
    values = config.get(name, default)
    numbers = list(values) if isinstance(values, (list, tuple)) else []
    if len(numbers) != 3 or not all(type(v) in (int, float) and math.isfinite(v) for v in numbers):
        raise ExportError(f"the image processor's {name} is {values!r}, not three numbers")
    if name == "image_std" and not all(numbers):
        raise ExportError(f"the image processor's {name} is {values!r}: nothing can be divided by zero")
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
