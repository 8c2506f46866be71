"""Which boxes and masks stay. Each filter answers with a keep mask, bool [N], in input order."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from florence2_sam2.postprocess.thresholds import written_value


def area_filter(ratios: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Keep boxes that are not too large.

    Args:
        ratios: [N] box area over picture area, as `box_area_ratios` gives it.
        threshold: a ratio greater than this goes, an equal one stays; 1 or more: all stay.

    Returns:
        bool [N], True where the box stays.
    """
    values = np.asarray(ratios)
    if threshold >= 1:
        return np.ones(values.shape, dtype=np.bool_)
    if values.dtype == np.float32:
        return values <= np.float32(threshold)
    return values <= written_value(threshold)


def confidence_filter(scores: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Keep masks that the model is sure enough of.

    Scores and threshold are compared as FP32, which both are at the source.

    Args:
        scores: [N] mask scores.
        threshold: a score lower than this goes, an equal one stays; 0 or less: all stay.

    Returns:
        bool [N], True where the mask stays.
    """
    values = np.asarray(scores, dtype=np.float32)
    if threshold <= 0:
        return np.ones(values.shape, dtype=np.bool_)
    return values >= np.float32(threshold)
