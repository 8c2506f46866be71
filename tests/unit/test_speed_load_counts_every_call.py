"""The load generator's bookkeeping: who was asked when, what counts, and that a failure is never lost."""

from __future__ import annotations

import threading
import time

import pytest

from bench.speed.load import Call, CallsFailed, Load, load


def test_every_caller_asks_its_numbers_and_nobody_elses() -> None:
    asked: list[tuple[int, int]] = []

    def ask(number: int) -> int:
        asked.append((threading.get_ident(), number))
        return 10 * number

    measured = load(ask, callers=3, calls_each=4)
    assert [call.number for call in measured.calls] == list(range(12))
    assert measured.answers() == [10 * number for number in range(12)]
    by_caller: dict[int, list[int]] = {}
    for thread, number in asked:
        by_caller.setdefault(thread, []).append(number)
    assert sorted(by_caller.values()) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_callers_are_there_at_once_and_each_one_waits_for_its_answer() -> None:
    now = most = 0
    lock, everyone = threading.Lock(), threading.Barrier(4, timeout=10)

    def ask(number: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        everyone.wait()  # passes only when all four are inside
        with lock:
            now -= 1

    load(ask, callers=4, calls_each=3)
    assert most == 4


def test_the_seconds_are_from_the_first_beginning_to_the_last_end() -> None:
    measured = load(lambda number: time.sleep(0.02 if number else 0.06), callers=2, calls_each=1)
    assert measured.seconds == pytest.approx(0.06, abs=0.04)
    assert measured.seconds >= 0.06
    assert measured.throughput == 2 / measured.seconds
    assert measured.calls[0].seconds >= 0.06
    assert measured.latency(0.5) == min(call.seconds for call in measured.calls)
    assert measured.latency(0.95) == max(call.seconds for call in measured.calls)


def test_times_are_those_of_the_clock() -> None:
    ticks = iter([1.0, 3.0, 4.0, 9.0])
    measured = load(lambda number: number, callers=1, calls_each=2, clock=lambda: next(ticks))
    assert measured == Load([Call(0, 1.0, 3.0), Call(1, 4.0, 9.0)], 8.0)
    assert measured.throughput == 0.25


def test_a_failed_call_fails_the_measurement_and_names_itself() -> None:
    asked = []

    def ask(number: int) -> None:
        asked.append(number)
        if number == 1:
            raise OSError("the line is dead")

    with pytest.raises(CallsFailed, match="1 of 2 calls have failed, the first: OSError: the line is dead"):
        load(ask, callers=1, calls_each=4)
    assert asked == [0, 1]
