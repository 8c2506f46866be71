"""While an interactive call is in, bulk calls stop before their next step, all but the oldest; none is forgotten."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.segment.turns import Turns


class Recorded:
    """Models whose encoder takes a moment and which write down what runs."""

    identities: dict[str, dict[str, Any]] = {}  # noqa: RUF012
    input_size = (8, 8)

    def __init__(self) -> None:
        self.running = self.most = self.runs = 0

    async def image_features(self, picture: Any) -> Any:
        self.running += 1
        self.runs += 1
        self.most = max(self.most, self.running)
        await asyncio.sleep(0.01)
        self.running -= 1
        return np.zeros(1, np.float32)

    async def sam2_pixels(self, picture: Any) -> Any:
        return picture

    async def sam2_features(self, pixels: Any) -> Any:
        return await self.image_features(pixels)

    async def masks(self, *arguments: Any) -> Any:
        return await self.image_features(None)

    async def generate(self, *arguments: Any) -> Any:
        return await self.image_features(None)


def test_all_but_the_oldest_stop_until_the_interactive_call_has_left() -> None:
    async def scenario() -> None:
        turns = Turns(beside=1)
        bulk = [turns.enter("bulk") for _ in range(3)]
        interactive = turns.enter("interactive")
        waits = [asyncio.create_task(call.turn()) for call in bulk]
        await asyncio.sleep(0.01)
        assert [wait.done() for wait in waits] == [True, False, False]
        assert turns.stopped == 2
        await asyncio.wait_for(interactive.turn(), 1)
        turns.leave(interactive)
        await asyncio.wait_for(asyncio.gather(*waits), 1)
        assert turns.stopped == 0

    asyncio.run(scenario())


def test_the_next_one_goes_on_when_the_oldest_has_ended() -> None:
    async def scenario() -> None:
        turns = Turns(beside=1)
        first, second, third = (turns.enter("bulk") for _ in range(3))
        turns.enter("interactive")
        waits = [asyncio.create_task(call.turn()) for call in (second, third)]
        await asyncio.sleep(0.01)
        turns.leave(first)
        await asyncio.sleep(0.01)
        assert [wait.done() for wait in waits] == [True, False]
        waits[1].cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize("beside", [0, 2, 5])
def test_as_many_go_on_as_the_setting_says(beside: int) -> None:
    async def scenario() -> None:
        turns = Turns(beside=beside)
        bulk = [turns.enter("bulk") for _ in range(4)]
        turns.enter("interactive")
        waits = [asyncio.create_task(call.turn()) for call in bulk]
        await asyncio.sleep(0.01)
        assert sum(wait.done() for wait in waits) == min(beside, 4)
        for wait in waits:
            wait.cancel()

    asyncio.run(scenario())


def test_without_interactive_calls_nobody_stops() -> None:
    async def scenario() -> None:
        turns = Turns(beside=0)
        bulk = [turns.enter("bulk") for _ in range(4)]
        await asyncio.wait_for(asyncio.gather(*(call.turn() for call in bulk)), 1)

    asyncio.run(scenario())


def test_work_that_outlives_its_call_goes_on() -> None:
    async def scenario() -> None:
        turns = Turns(beside=0)
        call = turns.enter("bulk")
        turns.enter("interactive")
        work = asyncio.create_task(call.models(Recorded()).image_features(np.zeros(1)))  # type: ignore[arg-type]
        await asyncio.sleep(0.01)
        assert not work.done()
        turns.leave(call)
        await asyncio.wait_for(work, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("at_once", [1, 3])
def test_bulk_calls_hold_an_encoder_that_many_at_a_time(at_once: int) -> None:
    async def scenario() -> None:
        turns, models = Turns(at_once=at_once), Recorded()
        calls = [turns.enter("bulk").models(models) for _ in range(6)]  # type: ignore[arg-type]
        await asyncio.gather(*(call.image_features(np.zeros(1)) for call in calls))
        assert models.most == at_once
        assert models.runs == 6

    asyncio.run(scenario())


def test_the_oldest_is_not_kept_out_by_one_that_has_to_stop() -> None:
    """It comes to an encoder behind others, an interactive call comes, and those others must not keep the encoder."""

    async def scenario() -> None:
        turns, models = Turns(beside=1), Recorded()
        oldest, *others = [turns.enter("bulk") for _ in range(4)]
        waiting = [asyncio.create_task(call.models(models).image_features(np.zeros(1))) for call in others]  # type: ignore[arg-type]
        await asyncio.sleep(0)
        turns.enter("interactive")
        await asyncio.wait_for(oldest.models(models).image_features(np.zeros(1)), 1)  # type: ignore[arg-type]
        assert models.runs <= 2, "one that ran already, and the oldest"
        for task in waiting:
            task.cancel()

    asyncio.run(scenario())


def test_interactive_calls_ask_the_models_themselves() -> None:
    models = Recorded()
    assert Turns().enter("interactive").models(models) is models  # type: ignore[arg-type, comparison-overlap]
