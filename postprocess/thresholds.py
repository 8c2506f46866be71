"""Comparing with thresholds that travelled as FP32.

A caller writes 0.3, the tensor carries 0.30000001192…, and 0.7 arrives as 0.69999998807…. Compared in float64, a
value that equals what the caller wrote would then fall on either side, depending on the number.
"""

from __future__ import annotations

import numpy as np


def written_value(threshold: float) -> float:
    """The number a caller wrote: of an FP32 value the shortest decimal that gives it, of any other value itself."""
    single = np.float32(threshold)
    return float(str(single)) if float(single) == float(threshold) else float(threshold)
