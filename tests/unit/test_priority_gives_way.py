"""Decoding's threads are nicer than others on CPUs, and only they."""

from __future__ import annotations

import os
import threading

import pytest

from florence2_sam2.server.onnx_session import CPU, CUDA, PROVIDERS_VARIABLE
from florence2_sam2.server.priority import give_way


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def of_two_threads(*steps: int) -> list[int]:
    """How much nicer a thread is after these steps, and one that it starts then."""
    before, found = niceness(), []

    def work() -> None:
        for step in steps:
            give_way(step)
        found.append(niceness() - before)
        child = threading.Thread(target=lambda: found.append(niceness() - before))
        child.start()
        child.join()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert niceness() == before
    return found


def test_a_thread_and_those_that_it_starts() -> None:
    assert of_two_threads(5) == [5, 5]
    assert of_two_threads(0) == [0, 0]


def test_there_is_an_end_to_it() -> None:
    most = 19 - niceness()
    assert of_two_threads(19, 19) == [most, most]


@pytest.mark.parametrize(("providers", "expected"), [(CPU, 5), (f"{CUDA},{CPU}", 0)])
def test_a_gpu_waits_for_no_one(monkeypatch: pytest.MonkeyPatch, providers: str, expected: int) -> None:
    monkeypatch.setenv(PROVIDERS_VARIABLE, providers)
    assert of_two_threads(5) == [expected, expected]
