"""Which things are hard to outline: thin ones, and those that look like what is around them.

A converged SAM2 outlines nearly everything in a drawn scene (mask IoU 0.95 and more), and most of a step's gradient
says so once more. What it fails at can be told from the truth alone: of things less than 2 % of the side wide, every
third mask was below an IoU of 0.85, of those wider than 4 % one in forty.
"""

import cv2
import numpy as np

from florence2_sam2.training.scenes import Scene

_BAND = 0.012  # of the shorter side: how far inside and outside of an outline its colours are looked at
_FAINT, _FAINT_SLOPE = 18.0, 5.0  # distance of colours in CIELAB; two shades of brown are 10 apart
_THIN, _WIDE = 0.01, 0.026  # of the shorter side


def hardness(scene: Scene) -> np.ndarray:
    """For each thing of the scene how hard it is to outline, float [N]: 0 (easy) to 2 (thin and hardly visible)."""
    lab = cv2.cvtColor(scene.image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.array([_faint(lab, thing.mask) + _thin(thing.mask) for thing in scene.objects])


def _faint(lab: np.ndarray, mask: np.ndarray) -> float:
    """How alike the colours on both sides of the outline are, 0 to 1. `lab` float [H, W, 3], `mask` bool [H, W]."""
    inside = mask.astype(np.uint8)
    band = max(2, round(_BAND * min(mask.shape)))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * band + 1, 2 * band + 1))
    outer = cv2.dilate(inside, kernel) > inside
    inner = inside > cv2.erode(inside, kernel)
    if not outer.any() or not inner.any():
        return 0.0
    distance = float(np.linalg.norm(lab[outer].mean(0) - lab[inner].mean(0)))
    return 1 / (1 + float(np.exp((distance - _FAINT) / _FAINT_SLOPE)))


def _thin(mask: np.ndarray) -> float:
    """0 for what is as wide as _WIDE or wider, 1 at _THIN: the width of a strip with the mask's area and outline."""
    inside = mask.astype(np.uint8)
    outline = int((inside > cv2.erode(inside, np.ones((3, 3), np.uint8))).sum())
    width = 2 * int(inside.sum()) / max(outline, 1) / min(mask.shape)
    return float(np.clip((_WIDE - width) / (_WIDE - _THIN), 0, 1))
