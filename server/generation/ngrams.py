"""The no_repeat_ngram rule, kept up to date token by token."""

from __future__ import annotations

from collections.abc import Sequence


class NGrams:
    """The n-grams of one growing sequence: which tokens would repeat one of them if they came next.

    transformers looks at the whole sequence, the decoder's start token included, at every step; here one dictionary
    entry is written per token. Size 0 switches the rule off.
    """

    __slots__ = ("_followers", "_suffix", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._suffix: tuple[int, ...] = ()  # the last size - 1 tokens
        self._followers: dict[tuple[int, ...], tuple[int, ...]] = {}

    def append(self, token: int) -> None:
        size = self.size
        if not size:
            return
        suffix = self._suffix
        if len(suffix) == size - 1:
            self._followers[suffix] = (*self._followers.get(suffix, ()), token)
            self._suffix = (*suffix, token)[1:]
        else:
            self._suffix = (*suffix, token)

    def banned(self) -> Sequence[int]:
        """The tokens that must not come next."""
        return self._followers.get(self._suffix, ())

    def fork(self) -> NGrams:
        """An equal rule that grows on its own."""
        twin = NGrams(self.size)
        twin._suffix = self._suffix
        twin._followers = dict(self._followers)
        return twin
