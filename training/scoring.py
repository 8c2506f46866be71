"""When an answer about a drawn scene is right: labels, sizes, and which answer belongs to which thing.

Plain numpy, so that evaluations with and without a server judge alike.
"""

import re
from collections.abc import Sequence

import numpy as np

from florence2_sam2.training.scenes import SceneObject
from florence2_sam2.training.vocabulary import COLOURS, KINDS, NUMBERS, TABLE, TABLE_PHRASE

MIN_COUNTED = 0.5  # things that show less than this share of themselves are not asked for
BOX_IOU = 0.5  # a box is found above this
MASK_IOU = 0.75  # a mask is right from this on

SIZES = ((0.1, "< 0.1"), (0.2, "0.1-0.2"), (0.35, "0.2-0.35"))
LARGEST = "> 0.35"

_PHRASE = re.compile(
    rf"\b(?:(?P<article>an?) (?:large |tiny )?|(?:{'|'.join(NUMBERS.values())}) )"
    rf"(?P<colour>{'|'.join(COLOURS)}) (?P<name>\w+)"
)
_SINGULAR = {kind: kind for kind in KINDS}
_PLURAL = {facts.plural: kind for kind, facts in KINDS.items()}


def read_phrase(phrase: str) -> tuple[str, str] | None:
    """The (kind, colour) that a caption's phrase names; None if no caption says it so.

    "a large red car" and "two red cars" both are ("car", "red"): whether a thing is large, or how many of its
    like there are, is not what a label of one thing is right or wrong about.
    """
    if phrase == TABLE_PHRASE:
        return TABLE, ""
    found = _PHRASE.fullmatch(phrase)
    if not found:
        return None
    kind = (_SINGULAR if found["article"] else _PLURAL).get(found["name"])
    return (kind, found["colour"]) if kind else None


def named_pairs(text: str) -> set[tuple[str, str]]:
    """The (kind, colour) pairs that a text names anywhere."""
    phrases = [found[0] for found in _PHRASE.finditer(text)]
    if TABLE_PHRASE in text:
        phrases.append(TABLE_PHRASE)
    return {pair for pair in map(read_phrase, phrases) if pair}


def counts(thing: SceneObject) -> bool:
    """Whether the thing is asked for. Tables count like everything else that a caption names."""
    return thing.visible >= MIN_COUNTED


def size_class(box: np.ndarray, width: int, height: int) -> str:
    """The longer side of a box xyxy in pixels, as a fraction of the picture's side, as a class of sizes."""
    side = max(float(box[2] - box[0]) / width, float(box[3] - box[1]) / height)
    return next((name for limit, name in SIZES if side < limit), LARGEST)


def mask_iou_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair of masks: bool [N, H, W], [M, H, W] -> float64 [N, M], 0 for two empty."""
    flat_a, flat_b = (m.reshape(len(m), m.shape[1] * m.shape[2]).astype(np.float32) for m in (a, b))
    common = (flat_a @ flat_b.T).astype(np.float64)
    union = flat_a.sum(1, dtype=np.float64)[:, None] + flat_b.sum(1, dtype=np.float64)[None] - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def match(overlap: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """The best one-to-one matching of rows and columns: as many pairs as possible, then the largest overlap in all.

    Args:
        overlap: float [N, M] in 0..1.
        allowed: bool [N, M], the pairs that may be matched.

    Returns:
        (row, column) pairs, rows ascending.
    """
    rows, columns = overlap.shape
    if not allowed.any():
        return []
    # One pair more outweighs whatever overlap the others could gain by it.
    gain = np.where(allowed, overlap + min(rows, columns) + 1.0, 0.0)
    if rows > columns:
        pairs = [(row, column) for column, row in enumerate(_assignment(gain.T))]
    else:
        pairs = list(enumerate(_assignment(gain)))
    return sorted((row, column) for row, column in pairs if allowed[row, column])


def _assignment(gain: np.ndarray) -> list[int]:
    """The column of each row, N <= M, for which the sum of `gain` [N, M] is largest.

    The Hungarian method with potentials (Kuhn 1955; Munkres 1957) in the form that adds one row after the
    other along a cheapest augmenting path. Index 0 of rows and columns is a sentinel.
    """
    rows, columns = gain.shape
    cost = np.zeros((rows + 1, columns + 1))
    cost[1:, 1:] = -gain
    row_potential, column_potential = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, int)  # the row that has a column; 0 none
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        distance, visited = np.full(columns + 1, np.inf), np.zeros(columns + 1, bool)
        before = np.zeros(columns + 1, int)
        while owner[column]:
            visited[column] = True
            here = owner[column]
            reach = cost[here] - row_potential[here] - column_potential
            closer = ~visited & (reach < distance)
            distance[closer], before[closer] = reach[closer], column
            following = int(np.where(visited, np.inf, distance).argmin())
            step = distance[following]
            row_potential[owner[visited]] += step
            column_potential[visited] -= step
            distance[~visited] -= step
            column = following
        while column:
            owner[column] = owner[before[column]]
            column = int(before[column])
    chosen = [0] * rows
    for column in range(1, columns + 1):
        if owner[column]:
            chosen[owner[column] - 1] = column - 1
    return chosen


def matched(overlap: np.ndarray, allowed: np.ndarray) -> Sequence[float]:
    """For each row the overlap of the column that `match` gives it, 0 where there is none."""
    best = [0.0] * len(overlap)
    for row, column in match(overlap, allowed):
        best[row] = float(overlap[row, column])
    return best
