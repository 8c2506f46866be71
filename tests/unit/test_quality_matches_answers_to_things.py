"""Labels are read, overlaps measured and answers matched as the rules of the quality table say."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.training.scoring import (
    mask_iou_matrix,
    match,
    matched,
    named_pairs,
    read_phrase,
    size_class,
)
from florence2_sam2.training.vocabulary import KINDS, TABLE_PHRASE, phrase_for


@pytest.mark.parametrize(
    ("phrase", "pair"),
    [
        ("a red car", ("car", "red")),
        ("a large red car", ("car", "red")),
        ("a tiny red car", ("car", "red")),
        ("an orange leaf", ("leaf", "orange")),
        ("two red leaves", ("leaf", "red")),
        ("three gray fish", ("fish", "gray")),
        ("a wooden table", ("table", "")),
        ("a red cars", None),
        ("two red car", None),
        ("red car", None),
        ("a huge red car", None),
        ("a car", None),
        ("a red unicorn", None),
        ("The image shows a red car", None),
        ("a red car next to", None),
        ("A red car", None),
        ("", None),
    ],
)
def test_labels_are_read(phrase: str, pair: tuple[str, str] | None) -> None:
    assert read_phrase(phrase) == pair


def test_every_phrase_that_a_caption_has_can_be_read() -> None:
    for kind, facts in KINDS.items():
        for colour in facts.colours:
            for count, size in ((1, ""), (1, "large"), (1, "tiny"), (2, ""), (3, "")):
                assert read_phrase(phrase_for(kind, colour, count, size)) == (kind, colour)
    assert read_phrase(TABLE_PHRASE)


def test_pairs_are_found_in_a_caption() -> None:
    text = "The image shows two red apples next to an orange boat on a wooden table. The background is a plain wall."
    assert named_pairs(text) == {("apple", "red"), ("boat", "orange"), ("table", "")}
    assert named_pairs("than orange boats; a green lawn") == set()


@pytest.mark.parametrize(
    ("box", "name"),
    [
        ((0, 0, 19.9, 5), "< 0.1"),
        ((0, 0, 20, 5), "0.1-0.2"),
        ((0, 0, 5, 20), "0.2-0.35"),  # 20 of 100 high
        ((0, 0, 70, 5), "> 0.35"),
    ],
)
def test_sizes_are_fractions_of_the_side(box: tuple[float, ...], name: str) -> None:
    assert size_class(np.array(box), 200, 100) == name


def test_masks_overlap_as_counted_by_hand() -> None:
    def mask(left: int, right: int) -> np.ndarray:
        drawn = np.zeros((2, 10), bool)
        drawn[:, left:right] = True
        return drawn

    overlap = mask_iou_matrix(
        np.stack([mask(0, 4), mask(0, 0)]), np.stack([mask(0, 4), mask(2, 8), mask(0, 0)])
    )
    np.testing.assert_allclose(overlap, [[1, 4 / 16, 0], [0, 0, 0]])
    assert mask_iou_matrix(np.zeros((2, 3, 3), bool), np.zeros((0, 3, 3), bool)).shape == (2, 0)


def test_a_thing_is_not_found_twice_and_an_answer_counts_once() -> None:
    overlap = np.array([[0.9, 0.8], [0.0, 0.0]])
    assert match(overlap, overlap > 0.5) == [(0, 0)]
    assert match(overlap.T, overlap.T > 0.5) == [(0, 0)]
    assert matched(overlap, overlap > 0.5) == [0.9, 0.0]


def test_the_best_pair_first_would_lose_one() -> None:
    overlap = np.array([[0.9, 0.8], [0.7, 0.0]])
    assert match(overlap, overlap > 0.5) == [(0, 1), (1, 0)]


def test_nothing_is_matched_where_nothing_may_be() -> None:
    assert match(np.ones((3, 2)), np.zeros((3, 2), bool)) == []
    assert match(np.zeros((0, 4)), np.zeros((0, 4), bool)) == []
    assert matched(np.zeros((2, 0)), np.zeros((2, 0), bool)) == [0.0, 0.0]


def best_by_trying(overlap: np.ndarray, allowed: np.ndarray) -> tuple[int, float]:
    """Number and summed overlap of the best matching, from all there are."""
    rows, columns = overlap.shape
    if rows > columns:
        return best_by_trying(overlap.T, allowed.T)
    best = (0, 0.0)
    for order in permutations(range(columns), rows):
        hits = [(r, c) for r, c in enumerate(order) if allowed[r, c]]
        best = max(best, (len(hits), round(sum(float(overlap[h]) for h in hits), 9)))
    return best


@given(st.data())
def test_matchings_are_the_best_there_are(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    cells = st.lists(
        st.sampled_from([0.0, 0.3, 0.5, 0.51, 0.8, 0.99, 1.0]),
        min_size=rows * columns,
        max_size=rows * columns,
    )
    overlap = np.array(data.draw(cells)).reshape(rows, columns)
    flags = st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)
    allowed = np.array(data.draw(flags), bool).reshape(rows, columns)
    pairs = match(overlap, allowed)
    assert all(allowed[pair] for pair in pairs)
    assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs)
    assert (len(pairs), round(sum(float(overlap[p]) for p in pairs), 9)) == best_by_trying(overlap, allowed)
