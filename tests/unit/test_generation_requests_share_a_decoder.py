"""The engine: what a request gets does not depend on who decodes beside it, and nobody's trouble is another's."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from florence2_sam2.server.errors import Cancelled, DeadlinePassed, Overloaded
from florence2_sam2.server.generation import search
from florence2_sam2.server.generation.engine import Engine
from florence2_sam2.server.generation.settings import Settings

EOS, START = 2, 2
VOCABULARY = 60
GREEDY = Settings(START, EOS, max_new_tokens=20, no_repeat_ngram_size=3, forced_bos=0, forced_eos=EOS)
BEAMS = dataclasses.replace(GREEDY, num_beams=3, early_stopping=True)


class HistoryDecoder:
    """A decoder with the real one's interface that keeps each row's history instead of keys and values.

    Logits are drawn from prompt and history: a row that is copied, moved or dropped wrongly says something else.
    """

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.histories: list[tuple[int, ...]] = []
        self.batches: list[int] = []
        self.encoded: list[int] = []
        self.alone: list[bool] = []
        self.gate = threading.Event()
        self.gate.set()

    @property
    def rows(self) -> int:
        return len(self.histories)

    def encode(
        self, image_features: NDArray[np.float32], prompt_ids: NDArray[np.int64], alone: bool
    ) -> tuple[int, ...]:
        self.encoded.append(int(prompt_ids[0]))
        self.alone.append(alone)
        if image_features.ndim != 2:
            raise RuntimeError("features of the wrong shape")
        return tuple(prompt_ids.tolist())

    def add(self, encoded: tuple[int, ...]) -> int:
        return self._append(encoded)

    def fork(self, source: int) -> int:
        return self._append(self.histories[source])

    def copy_past(self, source: int, target: int) -> None:
        self.histories[target] = self.histories[source]

    def remove(self, rows: Collection[int]) -> dict[int, int]:
        remaining = self.rows - len(rows)
        movers = [row for row in range(remaining, self.rows) if row not in rows]
        moved = dict(zip(movers, sorted(row for row in rows if row < remaining), strict=True))
        for source, target in moved.items():
            self.histories[target] = self.histories[source]
        del self.histories[remaining:]
        return moved

    def step(self, tokens: list[int]) -> NDArray[np.float32]:
        self.gate.wait()
        self.batches.append(self.rows)
        assert len(tokens) == self.rows <= self.max_rows
        self.histories = [(*history, token) for history, token in zip(self.histories, tokens, strict=True)]
        return np.array([self.logits(history) for history in self.histories])

    def logits(self, history: tuple[int, ...]) -> NDArray[np.float32]:
        if 666 in history:
            return np.full(VOCABULARY, np.nan, np.float32)
        return np.random.default_rng(history).normal(0, 1.5, VOCABULARY).astype(np.float32)

    def _append(self, history: tuple[int, ...]) -> int:
        assert self.rows < self.max_rows
        self.histories.append(history)
        return self.rows - 1


def alone(prompt: list[int], settings: Settings) -> list[int]:
    """The request's tokens without any engine."""
    model = HistoryDecoder(1)
    state = search.start(settings)
    histories = [(*prompt, settings.decoder_start)]
    while (step := state.step(np.array([model.logits(history) for history in histories]))) is not None:
        histories = [(*histories[p], t) for t, p in zip(step.tokens, step.parents, strict=True)]
    return state.result().token_ids


@pytest.fixture
def decoder() -> HistoryDecoder:
    return HistoryDecoder(max_rows=8)


@pytest.fixture
def engine(decoder: HistoryDecoder) -> Iterator[Engine]:
    built = Engine(decoder, interactive_rows=2, bulk_patience=30.0)  # type: ignore[arg-type]
    yield built
    decoder.gate.set()
    built.close()


def submit(engine: Engine, prompt: list[int], settings: Settings = GREEDY, **named: Any) -> Any:
    return engine.submit(np.zeros((1, 1), np.float32), np.array(prompt), settings, **named)


def eventually(condition: Any) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 10 s"
        time.sleep(0.002)


def test_tokens_are_those_of_a_request_alone(engine: Engine, decoder: HistoryDecoder) -> None:
    rng = np.random.default_rng(0)
    jobs = []
    for number in range(60):
        settings = dataclasses.replace(
            GREEDY if rng.random() < 0.3 else BEAMS, max_new_tokens=int(rng.integers(1, 25))
        )
        if settings.num_beams > 1:
            settings = dataclasses.replace(
                settings, num_beams=int(rng.integers(2, 6)), early_stopping=(True, False, "never")[number % 3]
            )
        jobs.append(([number, *rng.integers(3, 50, 4).tolist()], settings))
    futures = [
        submit(engine, prompt, settings, priority=("interactive", "bulk")[number % 2])
        for number, (prompt, settings) in enumerate(jobs)
    ]
    for (prompt, settings), future in zip(jobs, futures, strict=True):
        assert future.result(30).token_ids == alone(prompt, settings)
    assert max(decoder.batches) == 8, "requests should have shared the decoder"
    eventually(lambda: engine.load() == {"waiting": 0, "decoding": 0, "rows": 0})


def test_nobody_takes_the_machine_beside_a_text(engine: Engine, decoder: HistoryDecoder) -> None:
    submit(engine, [1]).result(10)
    submit(engine, [2], alone=True).result(10)
    eventually(lambda: not engine.load()["decoding"])
    decoder.gate.clear()
    futures = [submit(engine, [3], alone=True)]
    eventually(lambda: decoder.rows == 1)
    futures.append(submit(engine, [4], alone=True))
    decoder.gate.set()
    for future in futures:
        future.result(10)
    assert decoder.alone == [False, True, True, False]


def test_a_broken_request_harms_nobody(engine: Engine) -> None:
    good = [submit(engine, [n], BEAMS) for n in range(4)]
    no_numbers = submit(engine, [666], BEAMS)
    bad_shape = engine.submit(np.zeros(1, np.float32), np.array([1]), GREEDY)
    more = [submit(engine, [n], GREEDY) for n in range(4, 8)]
    with pytest.raises(ValueError, match="not numbers"):
        no_numbers.result(10)
    with pytest.raises(RuntimeError, match="wrong shape"):
        bad_shape.result(10)
    assert [future.result(10).token_ids for future in good] == [alone([n], BEAMS) for n in range(4)]
    assert [future.result(10).token_ids for future in more] == [alone([n], GREEDY) for n in range(4, 8)]


def test_after_a_failed_step_the_next_request_is_served(engine: Engine, decoder: HistoryDecoder) -> None:
    decoder.gate.clear()
    futures = [submit(engine, [n]) for n in range(2)]
    eventually(lambda: decoder.rows >= 1)
    decoder.logits = lambda history: [][0]  # type: ignore[method-assign, assignment]
    decoder.gate.set()
    for future in futures:
        with pytest.raises(IndexError):
            future.result(10)
    del decoder.logits  # type: ignore[method-assign]
    assert submit(engine, [9]).result(10).token_ids == alone([9], GREEDY)


def test_cancelling_stops_within_one_token(engine: Engine, decoder: HistoryDecoder) -> None:
    gone = threading.Event()
    endless = dataclasses.replace(BEAMS, max_new_tokens=10**6, min_new_tokens=10**6, no_repeat_ngram_size=0)
    future = submit(engine, [1], endless, cancelled=gone.is_set)
    eventually(lambda: len(decoder.batches) > 3)
    decoder.gate.clear()
    gone.set()
    before = len(decoder.batches)
    decoder.gate.set()
    with pytest.raises(Cancelled):
        future.result(10)
    assert len(decoder.batches) <= before + 2
    eventually(lambda: decoder.rows == 0)


def test_a_cancelled_request_never_begins(engine: Engine, decoder: HistoryDecoder) -> None:
    decoder.gate.clear()
    first = submit(engine, [1], dataclasses.replace(BEAMS, num_beams=8))
    eventually(lambda: decoder.rows)
    waiting = submit(engine, [777], BEAMS, cancelled=lambda: True)
    by_future = submit(engine, [778], BEAMS)
    assert by_future.cancel()
    decoder.gate.set()
    with pytest.raises(Cancelled):
        waiting.result(10)
    assert first.result(10).token_ids == alone([1], dataclasses.replace(BEAMS, num_beams=8))
    assert submit(engine, [2]).result(10).token_ids == alone([2], GREEDY)
    assert not {777, 778} & set(decoder.encoded)


def test_waiting_requests_learn_of_their_deadline_while_the_rows_are_taken(
    engine: Engine, decoder: HistoryDecoder
) -> None:
    def passed() -> bool:
        raise DeadlinePassed("too late")

    gone = threading.Event()
    endless = dataclasses.replace(BEAMS, num_beams=8, max_new_tokens=10**6, min_new_tokens=10**6)
    occupant = submit(
        engine, [1], dataclasses.replace(endless, no_repeat_ngram_size=0), cancelled=gone.is_set
    )
    eventually(lambda: decoder.rows == 8)
    late = submit(engine, [2], BEAMS, cancelled=passed)
    with pytest.raises(DeadlinePassed, match="too late"):
        late.result(2)
    gone.set()
    with pytest.raises(Cancelled):
        occupant.result(10)


def test_interactive_goes_before_bulk_and_lines_are_kept(engine: Engine, decoder: HistoryDecoder) -> None:
    decoder.gate.clear()
    whole = dataclasses.replace(BEAMS, num_beams=8)
    submit(engine, [1], whole)
    eventually(lambda: decoder.rows)
    futures = [
        submit(engine, [number], whole, priority=priority)
        for number, priority in ((10, "bulk"), (11, "interactive"), (12, "bulk"), (13, "interactive"))
    ]
    decoder.gate.set()
    for future in futures:
        future.result(10)
    assert decoder.encoded == [1, 11, 13, 10, 12]


def test_bulk_leaves_rows_free_and_waits_while_interactive_decodes(decoder: HistoryDecoder) -> None:
    engine = Engine(decoder, interactive_rows=2, bulk_patience=0.3)  # type: ignore[arg-type]
    decoder.gate.clear()
    bulk = [submit(engine, [n], BEAMS, priority="bulk") for n in range(3)]
    eventually(lambda: decoder.rows)
    decoder.gate.set()
    for future in bulk:
        future.result(10)
    assert max(decoder.batches) <= 6, "8 rows, two of them kept free"

    gone = threading.Event()
    endless = dataclasses.replace(GREEDY, max_new_tokens=10**6, min_new_tokens=10**6, no_repeat_ngram_size=0)
    occupant = submit(engine, [50], endless, cancelled=gone.is_set)
    eventually(lambda: 50 in decoder.encoded)
    began = time.monotonic()
    assert submit(engine, [51], priority="bulk").result(10).token_ids == alone([51], GREEDY)
    assert time.monotonic() - began >= 0.3, "bulk should have waited out its patience"
    gone.set()
    with pytest.raises(Cancelled):
        occupant.result(10)
    engine.close()


def test_more_requests_than_may_wait_are_refused(decoder: HistoryDecoder) -> None:
    engine = Engine(decoder, max_waiting=2)  # type: ignore[arg-type]
    decoder.gate.clear()
    whole = dataclasses.replace(BEAMS, num_beams=8)
    kept = [submit(engine, [0], whole)]
    eventually(lambda: decoder.rows)
    kept += [submit(engine, [n], whole) for n in (1, 2)]
    with pytest.raises(Overloaded, match="2 requests"):
        submit(engine, [3])
    decoder.gate.set()
    assert [future.result(10).token_ids for future in kept] == [alone([n], whole) for n in range(3)]
    with pytest.raises(ValueError, match="9 beams"):
        submit(engine, [3], dataclasses.replace(BEAMS, num_beams=9))
    engine.close()


def test_closing_ends_the_thread_and_answers_everyone(decoder: HistoryDecoder) -> None:
    engine = Engine(decoder)  # type: ignore[arg-type]
    decoder.gate.clear()
    whole = dataclasses.replace(BEAMS, num_beams=8)
    futures = [submit(engine, [n], whole) for n in range(3)]
    eventually(lambda: decoder.rows)
    threading.Timer(0.05, decoder.gate.set).start()
    engine.close()
    for future in futures:
        with pytest.raises(Overloaded, match="shutting down"):
            future.result(1)
    with pytest.raises(Overloaded, match="shutting down"):
        submit(engine, [4])
    assert "generation" not in {thread.name for thread in threading.enumerate()}


def test_a_completed_request_says_what_it_cost(engine: Engine) -> None:
    completed = submit(engine, [3], BEAMS).result(10)
    assert completed.steps >= len(completed.token_ids) > 0
    assert completed.log_probability < 0
    assert min(completed.waiting_s, completed.encoding_s, completed.decoding_s) >= 0


def test_a_request_that_comes_while_others_are_looked_at_has_not_waited_less_than_nothing(
    engine: Engine,
) -> None:
    """While the callers of those that wait are asked, which may take long, another one comes and is let in."""
    late: list[Any] = []

    def gone() -> bool:
        if not late:
            time.sleep(0.05)
            late.append(submit(engine, [4]))
        return True

    with pytest.raises(Cancelled):
        submit(engine, [3], cancelled=gone).result(10)
    assert late[0].result(10).waiting_s >= 0
