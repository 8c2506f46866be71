"""The search equals transformers' beam search, written out here the slow way: all rows, all scores, -1e9 and all."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from florence2_sam2.server.generation import search
from florence2_sam2.server.generation.settings import Settings

EOS, START, BOS = 2, 2, 0
NEVER = np.float32(-1e9)


class HistoryModel:
    """Logits that depend on the whole history of a row, so that any mix-up of rows changes what follows."""

    def __init__(self, seed: int, vocabulary: int, eos_bonus: float, spread: float) -> None:
        self.seed, self.vocabulary, self.eos_bonus, self.spread = seed, vocabulary, eos_bonus, spread

    def logits(self, history: tuple[int, ...]) -> NDArray[np.float32]:
        rng = np.random.default_rng((self.seed, *history))
        row = rng.normal(0, self.spread, self.vocabulary).astype(np.float32)
        row[EOS] += np.float32(self.eos_bonus)
        return row


def log_softmax(row: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted = row - row.max()
    return shifted - np.log(np.exp(shifted).sum(dtype=np.float32))


def processed(row: NDArray[np.float32], history: tuple[int, ...], s: Settings) -> NDArray[np.float32]:
    """The rules that `generate` applies, in its order, on the whole history."""
    row, n = row.copy(), s.no_repeat_ngram_size
    if n and len(history) >= n:
        prefix = history[len(history) - n + 1 :]
        for i in range(len(history) - n + 1):
            if history[i : i + n - 1] == prefix:
                row[history[i + n - 1]] = -np.inf
    if len(history) - 1 < s.min_new_tokens:
        row[s.eos] = -np.inf
    for token, applies in (
        (s.forced_bos, len(history) == 1),
        (s.forced_eos, len(history) == s.max_new_tokens),
    ):
        if token is not None and applies:
            row[:] = -np.inf
            row[token] = 0
    return row


def beam_search_by_definition(model: HistoryModel, s: Settings) -> list[int]:
    width = s.num_beams
    running = [((START,), np.float32(0) if beam == 0 else NEVER) for beam in range(width)]
    ended = [(NEVER, (), False)] * width
    while True:
        length = len(running[0][0])  # tokens after the start token, once this step's are appended
        rows = [
            processed(log_softmax(model.logits(history)), history, s) + score for history, score in running
        ]
        flat = np.concatenate(rows)
        order = np.argsort(-flat, kind="stable")[: 2 * width]
        candidates = [
            ((*running[index // model.vocabulary][0], int(index % model.vocabulary)), flat[index])
            for index in order
        ]
        hits = [history[-1] == s.eos or length == s.max_new_tokens for history, _ in candidates]
        alive = [
            score + (NEVER if hit else np.float32(0))
            for (_, score), hit in zip(candidates, hits, strict=True)
        ]
        best = np.argsort(-np.array(alive, np.float32), kind="stable")[:width]
        running = [(candidates[i][0], alive[i]) for i in best]
        fresh = []
        for rank, ((history, score), hit) in enumerate(zip(candidates, hits, strict=True)):
            final = score / np.float32(length**s.length_penalty)
            counts = hit and rank < width
            fresh.append((final if counts else final + NEVER, history, counts))
        merged = ended + fresh
        keep = np.argsort(-np.array([score for score, _, _ in merged], np.float32), kind="stable")[:width]
        ended = [merged[i] for i in keep]
        reach = s.max_new_tokens if s.early_stopping == "never" and s.length_penalty > 0 else length
        possible = running[0][1] / np.float32(reach**s.length_penalty)
        worst = min(score for score, _, _ in ended)
        improvable = any(possible > (worst if done else NEVER) for _, _, done in ended)
        if not improvable or all(hits) or (s.early_stopping is True and all(done for _, _, done in ended)):
            return list(ended[0][1][1:])


def run(model: HistoryModel, s: Settings) -> search.Generated:
    """Drive the search under test by itself, with the histories it implies."""
    state = search.start(s)
    histories = [(s.decoder_start,)]
    while (step := state.step(np.array([model.logits(history) for history in histories]))) is not None:
        histories = [
            (*histories[parent], token) for token, parent in zip(step.tokens, step.parents, strict=True)
        ]
    return state.result()


searches = st.builds(
    Settings,
    decoder_start=st.just(START),
    eos=st.just(EOS),
    max_new_tokens=st.integers(1, 14),
    num_beams=st.integers(2, 5),
    min_new_tokens=st.integers(0, 6),
    no_repeat_ngram_size=st.integers(0, 3),
    forced_bos=st.sampled_from([None, BOS]),
    forced_eos=st.sampled_from([None, EOS]),
    early_stopping=st.sampled_from([True, False, "never"]),
    length_penalty=st.sampled_from([1.0, 0.0, 2.0, -1.0, 0.4]),
)
models = st.builds(
    HistoryModel,
    seed=st.integers(0, 2**16),
    vocabulary=st.integers(40, 90),
    eos_bonus=st.sampled_from([0.0, 2.0, 3.0, 5.0]),
    spread=st.sampled_from([0.3, 1.0, 3.0]),
)


@given(models, searches)
@settings(max_examples=250)
def test_same_tokens_as_the_definition(model: HistoryModel, s: Settings) -> None:
    assert run(model, s).token_ids == beam_search_by_definition(model, s)


@pytest.mark.long
@given(models, searches)
@settings(max_examples=5000)
def test_same_tokens_as_the_definition_long(model: HistoryModel, s: Settings) -> None:
    assert run(model, s).token_ids == beam_search_by_definition(model, s)


@given(models, searches)
@example(HistoryModel(0, 40, -2.0, 1.0), Settings(START, EOS, 12, no_repeat_ngram_size=1))
@settings(max_examples=150)
def test_greedy_takes_the_best_token_of_each_step(model: HistoryModel, s: Settings) -> None:
    s = dataclasses.replace(s, num_beams=1)
    history: tuple[int, ...] = (START,)
    while len(history) <= s.max_new_tokens:
        history += (int(processed(model.logits(history), history, s).argmax()),)
        if history[-1] == EOS:
            break
    assert run(model, s).token_ids == list(history[1:])


@given(models, searches, st.integers(1, 4))
@settings(max_examples=60)
def test_log_probability_is_the_sum_over_the_chosen_tokens(
    model: HistoryModel, s: Settings, beams: int
) -> None:
    """Forced tokens count 0, as they do in transformers' scores."""
    s = dataclasses.replace(s, num_beams=beams)
    generated = run(model, s)
    history: tuple[int, ...] = (START,)
    each = []
    for token in generated.token_ids:
        forced = s.forced(len(history) - 1) is not None
        each.append(0.0 if forced else float(log_softmax(model.logits(history))[token]))
        history += (token,)
    assert generated.log_probability == pytest.approx(sum(each), abs=1e-4)
    assert generated.token_log_probabilities == pytest.approx(each, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
def test_first_step_has_one_row_and_broken_logits_are_refused(beams: int) -> None:
    state = search.start(Settings(START, EOS, 5, num_beams=beams))
    with pytest.raises(ValueError, match="not numbers"):
        state.step(np.full((1, 50), np.nan, np.float32))


def test_of_equal_logits_the_smallest_token_wins() -> None:
    state = search.start(Settings(START, EOS, 5))
    logits = np.zeros((1, 50), np.float32)
    logits[0, [7, 9]] = 1
    step = state.step(logits)
    assert step is not None
    assert step.tokens == [7]


def test_rules_that_ban_everything_are_an_error_not_a_made_up_answer() -> None:
    """Of three tokens the start is used, the end not allowed yet, and the third can come only once."""
    state = search.start(Settings(START, 1, 9, num_beams=2, no_repeat_ngram_size=1, min_new_tokens=8))
    step = state.step(np.zeros((1, 3), np.float32))
    assert step == search.Continuation([0], [0])
    with pytest.raises(ValueError, match="no token"):
        state.step(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize(
    "change",
    [{"num_beams": 0}, {"max_new_tokens": 0}, {"min_new_tokens": -1}],
    ids=lambda change: next(iter(change)),
)
def test_impossible_settings_are_refused(change: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="settings"):
        dataclasses.replace(Settings(START, EOS, 5), **change)
