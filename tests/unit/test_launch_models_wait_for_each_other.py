"""Calls between models leave threads for answers, and show which model has not answered for how long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.triton import health
from florence2_sam2.server.triton.health import State
from florence2_sam2.server.triton.outstanding import CALL_THREADS, SPARE_THREADS, Outstanding


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def state(**changed: Any) -> State:
    plain: State = {
        "healthy": True,
        "in_flight": 0,
        "waiting": 0,
        "answered": 0,
        "progress": 0,
        "waits_for": {},
        "decoder_still": 0.0,
    }
    return {**plain, **changed}  # type: ignore[typeddict-item, return-value]


def test_a_model_is_waited_for_since_its_last_answer() -> None:
    async def calls() -> None:
        clock = Clock()
        outstanding = Outstanding(clock=clock)
        assert outstanding.waits_for() == {}
        await outstanding.begin("encoder")
        clock.now += 5
        await outstanding.begin("encoder")
        assert outstanding.waits_for() == {"encoder": 5}, "another call must not hide that it stands still"
        clock.now += 2
        outstanding.end("encoder")
        assert outstanding.answers == 1
        clock.now += 3
        assert outstanding.waits_for() == {"encoder": 3}
        outstanding.end("encoder")
        clock.now += 50
        assert outstanding.waits_for() == {}
        await outstanding.begin("encoder")
        assert outstanding.waits_for() == {"encoder": 0}, "the time before does not count"

    asyncio.run(calls())


def test_models_that_tell_of_themselves_are_not_watched() -> None:
    async def calls() -> None:
        outstanding = Outstanding()
        await outstanding.begin("florence2", watched=False)
        assert outstanding.waits_for() == {}
        outstanding.end("florence2", watched=False)
        assert outstanding.answers == 1

    asyncio.run(calls())


def test_some_threads_are_always_left() -> None:
    async def calls() -> None:
        outstanding = Outstanding()
        most = CALL_THREADS - SPARE_THREADS
        for _ in range(most):
            await asyncio.wait_for(outstanding.begin("model"), 5)
        late = asyncio.create_task(outstanding.begin("model"))
        gives_up = asyncio.create_task(outstanding.begin("model"))
        await asyncio.sleep(0.05)
        assert not late.done()
        gives_up.cancel()
        outstanding.end("model")
        await asyncio.wait_for(late, 5)
        for _ in range(most):
            outstanding.end("model")
        assert outstanding.waits_for() == {}

    asyncio.run(calls())


class Request:
    def __init__(self, *inputs: str) -> None:
        self._inputs = inputs

    def inputs(self) -> tuple[str, ...]:
        return self._inputs


def test_half_a_health_request_is_refused() -> None:
    health.check({"health": True}, Request())  # type: ignore[arg-type]
    for value, inputs in ((False, ()), (1, ()), ("true", ()), (True, ("caption",))):
        with pytest.raises(InvalidRequest, match=r"^health: must be true, and goes with no other field$"):
            health.check({"health": value}, Request(*inputs))  # type: ignore[arg-type]


def test_the_parts_are_put_together() -> None:
    own = state(in_flight=3, waiting=1, answered=9, progress=20, waits_for={"encoder": 1.5})
    part = state(in_flight=2, waiting=7, progress=5, waits_for={"vision": 2.5}, decoder_still=4.0)
    assert health.with_parts(own, part) == state(
        in_flight=3,
        waiting=1,
        answered=9,
        progress=25,
        waits_for={"encoder": 1.5, "vision": 2.5},
        decoder_still=4.0,
    )
    assert not health.with_parts(own, state(healthy=False))["healthy"]
