"""Which tokens come next: greedy and beam search of one request, equal to transformers' `generate`.

Both kinds keep `rows` sequences alive. `step` takes their logits and answers with the tokens to feed next and the
rows they continue, or None when the search is over and `result` has its answer. Neither knows of models, caches or
other requests.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.server.generation.ngrams import NGrams
from florence2_sam2.server.generation.settings import Settings
from florence2_sam2.server.generation.topk import contenders, log_normalisers

Logits = NDArray[np.float32]


class Continuation(NamedTuple):
    """One entry per row of the next step: the token to feed, and the row of this step that it continues."""

    tokens: list[int]
    parents: list[int]


@dataclass(frozen=True)
class Generated:
    """The chosen sequence without the decoder's start token, the sum of its tokens' log-probabilities, and each one's.

    A forced token counts 0, as in transformers' beam scores.
    """

    token_ids: list[int]
    log_probability: float
    token_log_probabilities: list[float]


class Search(Protocol):
    def step(self, logits: Logits) -> Continuation | None:
        """Advance by one token. `logits` [rows, vocabulary] may be overwritten.

        Raises:
            ValueError: the logits hold NaN, or the rules leave no token to continue with.
        """

    def result(self) -> Generated: ...

    def so_far(self) -> list[int]:
        """The tokens of what would be the answer now; a beam search may still come to another one."""


def start(settings: Settings) -> Search:
    """The search that `settings` ask for. Its first step has one row, fed with `settings.decoder_start`."""
    return Greedy(settings) if settings.num_beams == 1 else BeamSearch(settings)


class Greedy:
    """The most probable token at each step; of equal ones the smallest id."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tokens: list[int] = []
        self._log_probability = np.float32(0)
        self._token_log_probabilities: list[float] = []
        self._ngrams = NGrams(settings.no_repeat_ngram_size)
        self._ngrams.append(settings.decoder_start)

    def step(self, logits: Logits) -> Continuation | None:
        settings = self._settings
        token = settings.forced(len(self._tokens))
        log_probability = np.float32(0)
        if token is None:
            (top,), (log_sum,) = log_normalisers(logits)
            _ban(logits, settings, len(self._tokens), [self._ngrams])
            token = int(logits[0].argmax())
            log_probability = logits[0, token] - top - log_sum
        self._log_probability += log_probability
        self._token_log_probabilities.append(float(log_probability))
        self._tokens.append(token)
        self._ngrams.append(token)
        if token == settings.eos or len(self._tokens) == settings.max_new_tokens:
            return None
        return Continuation([token], [0])

    def result(self) -> Generated:
        return Generated(self._tokens, float(self._log_probability), self._token_log_probabilities)

    def so_far(self) -> list[int]:
        return list(self._tokens)


class _Candidate(NamedTuple):
    parent: int
    token: int
    log_probability: float


class _Beam(NamedTuple):
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]  # of the sequence's first 0, 1, 2 … tokens together
    ngrams: NGrams

    @property
    def log_probability(self) -> float:
        return self.log_probabilities[-1]


class _Finished(NamedTuple):
    score: float
    tokens: tuple[int, ...]
    log_probabilities: tuple[float, ...]


class BeamSearch:
    """transformers' `_beam_search` (5.23) for one request.

    transformers always carries `num_beams` rows and gives those that do not exist yet a score of -1e9, from which
    they never recover. Here they are left out, so the first steps have one row. What remains of its arithmetic:
    scores are float32; of the `2 * num_beams` best continuations the `num_beams` best that have not ended go on,
    and the ended ones among the `num_beams` best compete with those that ended before.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        ngrams = NGrams(settings.no_repeat_ngram_size)
        ngrams.append(settings.decoder_start)
        self._beams = [_Beam((), (0.0,), ngrams)]
        self._finished: list[_Finished] = []

    def step(self, logits: Logits) -> Continuation | None:
        settings = self._settings
        width = settings.num_beams
        length = len(self._beams[0].tokens) + 1
        at_limit = length == settings.max_new_tokens

        running: list[_Candidate] = []
        for rank, candidate in enumerate(self._candidates(logits)):
            if not (at_limit or candidate.token == settings.eos):
                running.append(candidate)
            elif rank < width:
                self._finish(candidate, length)
        running = running[:width]
        if not (running or self._finished):
            raise ValueError("the generation settings leave no token to continue with")
        if at_limit or not running or self._is_settled(running[0].log_probability, length):
            return None
        self._beams = self._grown(running)
        return Continuation([child.token for child in running], [child.parent for child in running])

    def result(self) -> Generated:
        best = self._finished[0]
        sums = best.log_probabilities
        each = [after - before for before, after in itertools.pairwise(sums)]
        return Generated(list(best.tokens), sums[-1], each)

    def so_far(self) -> list[int]:
        return list(self._beams[0].tokens)

    def _candidates(self, logits: Logits) -> list[_Candidate]:
        """The best continuations of all rows, best first; of equal ones the first."""
        keep = 2 * self._settings.num_beams
        generated = len(self._beams[0].tokens)
        forced = self._settings.forced(generated)
        if forced is not None:
            found = [_Candidate(row, forced, beam.log_probability) for row, beam in enumerate(self._beams)]
            return sorted(found, key=lambda candidate: -candidate.log_probability)
        tops, log_sums = log_normalisers(logits)
        _ban(logits, self._settings, generated, [beam.ngrams for beam in self._beams])
        sums = np.array([beam.log_probability for beam in self._beams], np.float32)
        rows, tokens = contenders(logits, keep)
        scores = logits[rows, tokens] - tops[rows] - log_sums[rows] + sums[rows]
        best = (-scores).argsort(kind="stable")[:keep]
        # As Python floats, which hold float32 exactly, scores are faster to handle one by one.
        triples = zip(rows[best].tolist(), tokens[best].tolist(), scores[best].tolist(), strict=True)
        return [_Candidate(*triple) for triple in triples if triple[2] > -np.inf]

    def _finish(self, ended: _Candidate, length: int) -> None:
        """Keep an ended sequence if it is among the `num_beams` best ended ones; of equal ones the earlier stays."""
        score = np.float32(ended.log_probability) / np.float32(length**self._settings.length_penalty)
        parent = self._beams[ended.parent]
        tokens = (*parent.tokens, ended.token)
        sums = (*parent.log_probabilities, ended.log_probability)
        self._finished.append(_Finished(float(score), tokens, sums))
        self._finished.sort(key=lambda finished: -finished.score)
        del self._finished[self._settings.num_beams :]

    def _is_settled(self, best_running: float, length: int) -> bool:
        """No running row may still change the answer, as far as `early_stopping` cares to look."""
        settings = self._settings
        if len(self._finished) < settings.num_beams:
            return False
        if settings.early_stopping is True:
            return True
        if settings.early_stopping == "never" and settings.length_penalty > 0:
            length = settings.max_new_tokens
        reachable = np.float32(best_running) / np.float32(length**settings.length_penalty)
        return not reachable > self._finished[-1].score

    def _grown(self, running: list[_Candidate]) -> list[_Beam]:
        """The rows of the next step. The last child of a row takes its n-grams over, the others get copies."""
        last_child = {child.parent: child for child in running}
        beams = []
        for child in running:
            beam = self._beams[child.parent]
            ngrams = beam.ngrams if last_child[child.parent] is child else beam.ngrams.fork()
            ngrams.append(child.token)
            sums = (*beam.log_probabilities, child.log_probability)
            beams.append(_Beam((*beam.tokens, child.token), sums, ngrams))
        return beams


def _ban(logits: Logits, settings: Settings, generated: int, ngrams: list[NGrams]) -> None:
    """transformers' processors that forbid tokens: their logits become -inf."""
    for row, rule in enumerate(ngrams):
        banned = rule.banned()
        if banned:
            logits[row, list(banned)] = -np.inf
    if generated < settings.min_new_tokens:
        logits[:, settings.eos] = -np.inf
