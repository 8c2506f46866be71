"""The few best of each row hold what sorting the whole row finds, and log_softmax is what it should be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.server.generation.topk import contenders, log_normalisers


@given(
    st.integers(1, 4),
    st.one_of(st.integers(1, 50), st.integers(60, 5000)),
    st.integers(1, 16),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 30, 10**6]),
)
def test_the_largest_of_each_row_are_among_the_contenders(
    rows: int, size: int, k: int, seed: int, distinct: int
) -> None:
    """Of equal values all, so that a stable sort of the contenders is a stable sort of the row."""
    rng = np.random.default_rng(seed)
    logits = rng.integers(0, distinct, (rows, size)).astype(np.float32)
    logits[rng.random((rows, size)) < rng.choice([0.0, 0.1, 0.99])] = -np.inf
    found = list(zip(*(indices.tolist() for indices in contenders(logits, k)), strict=True))
    assert found == sorted(found)
    for row in range(rows):
        columns = np.array([column for at, column in found if at == row])
        best = columns[np.argsort(-logits[row, columns], kind="stable")[:k]]
        assert best.tolist() == np.argsort(-logits[row], kind="stable")[:k].tolist()


def test_contenders_are_few() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (3, 51289)).astype(np.float32)
    assert len(contenders(logits, 6)[0]) < 3 * 12


def test_log_normalisers_give_log_softmax() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (3, 51289)).astype(np.float32)
    tops, log_sums = log_normalisers(logits)
    exact = logits - np.logaddexp.reduce(logits.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(logits - tops[:, None] - log_sums[:, None], exact, atol=3e-6)


@pytest.mark.parametrize("row", [[0.0, np.nan], [-np.inf, -np.inf], [np.inf, 0.0]])
def test_numbers_that_are_none_are_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="not numbers"):
        log_normalisers(np.array([[0.0, 1.0], row], np.float32))
