"""An engine tells whether its thread lives, and for how long it has got nothing done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.generation.engine import Engine
from florence2_sam2.server.generation.settings import Settings

SETTINGS = Settings(2, 2, max_new_tokens=5, no_repeat_ngram_size=0, forced_bos=0, forced_eos=2)


class Decoder:
    """One row, which writes the same token; a step waits for the gate, and what goes wrong is the test's choice."""

    max_rows = 1

    def __init__(self) -> None:
        self.rows = 0
        self.gate = threading.Event()
        self.gate.set()
        self.bug = False

    def encode(self, image_features: NDArray[np.float32], prompt_ids: NDArray[np.int64], alone: bool) -> None:
        pass

    def add(self, encoded: None) -> int:
        self.rows = 1
        return 0

    def remove(self, rows: Collection[int]) -> dict[int, int]:
        if self.bug:
            raise RuntimeError("a bug outside of any request")
        self.rows = 0
        return {}

    def step(self, tokens: list[int]) -> NDArray[np.float32]:
        self.gate.wait()
        return np.eye(9, dtype=np.float32)[[3]]


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "did not happen within 10 s"
        time.sleep(0.002)


@pytest.fixture
def decoder() -> Decoder:
    return Decoder()


@pytest.fixture
def engine(decoder: Decoder) -> Iterator[Engine]:
    built = Engine(decoder)  # type: ignore[arg-type]
    yield built
    decoder.gate.set()
    built.close()


def write(engine: Engine) -> None:
    engine.submit(np.zeros((1, 1), np.float32), np.array([1]), SETTINGS).result(10)


def test_without_work_nothing_stands_still(engine: Engine) -> None:
    time.sleep(0.1)
    pulse = engine.pulse()
    assert (pulse.alive, pulse.rounds, pulse.still) == (True, 0, 0.0)


def test_work_is_counted(engine: Engine) -> None:
    write(engine)
    eventually(lambda: engine.pulse().still == 0)
    first = engine.pulse().rounds
    assert first >= SETTINGS.max_new_tokens - 1
    write(engine)
    eventually(lambda: engine.pulse().rounds == 2 * first)


def test_a_step_that_does_not_end_is_seen(engine: Engine, decoder: Decoder) -> None:
    time.sleep(0.2)  # the time before the work came does not count
    decoder.gate.clear()
    future = engine.submit(np.zeros((1, 1), np.float32), np.array([1]), SETTINGS)
    eventually(lambda: decoder.rows == 1)
    before = engine.pulse()
    assert before.still < 0.2
    time.sleep(0.2)
    after = engine.pulse()
    assert after.rounds == before.rounds
    assert after.still >= before.still + 0.2
    decoder.gate.set()
    future.result(10)
    eventually(lambda: engine.pulse().still == 0)
    assert engine.pulse().alive


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_engine_whose_thread_a_bug_has_ended_is_dead(decoder: Decoder) -> None:
    engine = Engine(decoder)  # type: ignore[arg-type]
    decoder.bug = True
    write(engine)
    eventually(lambda: not engine.pulse().alive)
    with pytest.raises(Overloaded):
        write(engine)
    engine.close()  # the thread has ended: what it has raised belongs to this test


def test_a_closed_engine_is_not_alive(decoder: Decoder) -> None:
    engine = Engine(decoder)  # type: ignore[arg-type]
    engine.close()
    assert not engine.pulse().alive
