"""How calls come: at given moments whether those before are answered or not (an open loop), or each caller's next one
when its last is answered (a closed loop)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from bench.load.wire import Sample, Wire

Make = Callable[[int], bytes]
"""The request with a number."""

# A caller who is refused does not ask again at once.
PAUSE_SECONDS = 0.05
# What runs beside a measurement is given this long to get going.
SETTLE_SECONDS = 1.0


async def open_loop(wire: Wire, make: Make, arrivals: Sequence[float], first: int = 0) -> list[Sample]:
    """One call at each of `arrivals`, seconds from now in rising order; their numbers are `first` and following."""
    loop = asyncio.get_running_loop()
    requests = [make(first + index) for index in range(len(arrivals))]
    calls: list[asyncio.Task[Sample]] = []
    began = loop.time()
    for index, (at, request) in enumerate(zip(arrivals, requests, strict=True)):
        wait = began + at - loop.time()
        if wait > 0:
            await asyncio.sleep(wait)
        calls.append(asyncio.create_task(wire.ask(first + index, request, began, began + at)))
    return list(await asyncio.gather(*calls))


async def closed_loop(
    wire: Wire, make: Make, callers: int, numbers: Iterable[int], stop: asyncio.Event | None = None
) -> list[Sample]:
    """`callers` callers share `numbers`: each takes the next one when its last call is over, until there is none or
    `stop` is set. In the order of their ends."""
    began = asyncio.get_running_loop().time()
    left, samples = iter(numbers), []

    async def caller() -> None:
        for number in left:
            sample = await wire.ask(number, make(number), began)
            samples.append(sample)
            if not sample.answered:
                await asyncio.sleep(PAUSE_SECONDS)
            if stop is not None and stop.is_set():
                return

    await asyncio.gather(*(caller() for _ in range(callers)))
    return samples


async def beside(
    wire: Wire, make: Make, numbers: Iterable[int], other: Make, others: int, other_numbers: Iterable[int]
) -> tuple[list[Sample], list[Sample]]:
    """One caller's calls while `others` callers make other ones all the time; these are let come to their end."""
    stop = asyncio.Event()
    background = asyncio.create_task(closed_loop(wire, other, others, other_numbers, stop))
    try:
        await asyncio.sleep(SETTLE_SECONDS)
        measured = await closed_loop(wire, make, 1, numbers)
    finally:
        stop.set()
    return measured, await background
