"""The few largest of a row, and its log_softmax, equal what sorting the whole row gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.server.generation.topk import largest, log_normaliser


@given(
    st.one_of(st.integers(1, 50), st.integers(8000, 20_000)),
    st.integers(1, 16),
    st.integers(0, 2**32 - 1),
    st.sampled_from([2, 30, 10**6]),
)
def test_largest_equals_a_stable_sort(size: int, k: int, seed: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    row = rng.integers(0, distinct, size).astype(np.float32)
    row[rng.random(size) < rng.choice([0.0, 0.1, 0.99])] = -np.inf
    assert largest(row, k).tolist() == np.argsort(-row, kind="stable")[:k].tolist()


def test_log_normaliser_gives_log_softmax() -> None:
    row = np.random.default_rng(0).normal(0, 5, 51289).astype(np.float32)
    top, log_sum = log_normaliser(row)
    exact = row.astype(np.float64) - np.logaddexp.reduce(row.astype(np.float64))
    np.testing.assert_allclose(row - top - log_sum, exact, atol=2e-6)


@pytest.mark.parametrize("row", [[0.0, np.nan], [-np.inf, -np.inf], [np.inf, 0.0]])
def test_numbers_that_are_none_are_refused(row: list[float]) -> None:
    with pytest.raises(ValueError, match="not numbers"):
        log_normaliser(np.array(row, np.float32))
