"""No n-gram twice: the incremental rule bans what a look at the whole sequence bans."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.server.generation.ngrams import NGrams


def banned_by_definition(sequence: list[int], size: int) -> set[int]:
    """Every token whose n-gram, ending in it, the sequence has already."""
    if not size or len(sequence) < size:
        return set()
    prefix = sequence[len(sequence) - size + 1 :]
    return {
        sequence[start + size - 1]
        for start in range(len(sequence) - size + 1)
        if sequence[start : start + size - 1] == prefix
    }


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(0, 5))
def test_bans_exactly_what_would_repeat(sequence: list[int], size: int) -> None:
    rule = NGrams(size)
    for end, token in enumerate(sequence):
        assert set(rule.banned()) == banned_by_definition(sequence[:end], size)
        rule.append(token)
    assert set(rule.banned()) == banned_by_definition(sequence, size)


@given(
    st.lists(st.integers(0, 2), max_size=15),
    st.lists(st.integers(0, 2), max_size=15),
    st.lists(st.integers(0, 2), max_size=15),
    st.integers(1, 4),
)
def test_forks_do_not_see_each_other(stem: list[int], left: list[int], right: list[int], size: int) -> None:
    rule = NGrams(size)
    for token in stem:
        rule.append(token)
    twin = rule.fork()
    for token in left:
        rule.append(token)
    for token in right:
        twin.append(token)
    assert set(rule.banned()) == banned_by_definition(stem + left, size)
    assert set(twin.banned()) == banned_by_definition(stem + right, size)


def test_size_one_bans_every_token_seen() -> None:
    rule = NGrams(1)
    for token in (5, 7, 5):
        rule.append(token)
    assert set(rule.banned()) == {5, 7}
