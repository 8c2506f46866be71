"""What the parts share: one server, requests that no memory can answer, the tool, the capacity."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.load.judge import throughput
from bench.load.loops import closed_loop
from bench.load.sites import Sites
from bench.load.wire import Requests, Wire
from bench.speed import perf_analyzer
from bench.speed.bench import Bench

FIRST = 90_000  # of the scenes; those before are other benches'
SLOW_SITES = 20
CALLERS = 8  # with which the capacity is measured where nothing has found the knee

# What a quick run's server is given: a full queue is empty again in a few seconds.
QUICK_URL_SECONDS = 3.0
QUICK_SETTINGS = {"max_in_flight": 3, "max_queue": 6, "url_total_seconds": QUICK_URL_SECONDS}


@dataclass(frozen=True)
class Running:
    """A server that somebody else has started, with settings of its own."""

    grpc_address: str
    admin_headers: Mapping[str, str] = field(default_factory=dict)


class Job:
    """`running`: the server to load; None starts one of its own, which keeps nothing in its memory of pictures and may
    fetch from `sites`. `with_tool`: whether perf_analyzer is used where it starts."""

    def __init__(self, bench: Bench, running: Running | None = None, with_tool: bool = True) -> None:
        self.bench = bench
        self.running = running
        self.knee: int | None = None
        self.sites: Sites | None = None
        self._capacity: float | None = None
        self._with_tool = with_tool
        self._tool: perf_analyzer.Tool | None = None
        self._next = 0
        count = bench.times(128, 48, 16)
        self.requests = Requests(bench.pictures(count, FIRST), bench.subject.request)

    def server(self) -> perf_analyzer.Served:
        """The server, ready."""
        if self.running is not None:
            return self.running
        if self.sites is None:
            self.sites = Sites(SLOW_SITES)
            self.sites.__enter__()
        settings: dict[str, Any] = {"memory_bytes": 0, "url_allow": self.sites.allowed}
        if self.bench.choices.quick:
            settings |= QUICK_SETTINGS
        return self.bench.server(**settings)

    def wire(self) -> Wire:
        """Connections to the server."""
        return Wire(self.server().grpc_address)

    def numbers(self, count: int) -> range:
        """Numbers of `count` requests that were not sent before."""
        self._next += count
        return range(self._next - count, self._next)

    def tool(self) -> perf_analyzer.Tool | None:
        """perf_analyzer, if it is wanted and starts here."""
        if self._with_tool and self._tool is None:
            try:
                self._tool = perf_analyzer.find(
                    self.bench.output.parent / "perf_analyzer", self.bench.choices.perf_analyzer
                )
            except perf_analyzer.Unavailable as error:
                self._with_tool = False
                self.bench.say(f"perf_analyzer does not start here: {error}")
        return self._tool

    def capacity(self) -> float:
        """Answers a second that the server gives at most: as `found`, or measured now."""
        if self._capacity is None:
            numbers = self.numbers(self.bench.times(60, 24, 12))

            async def measure() -> float:
                async with self.wire() as wire:
                    return throughput(await closed_loop(wire, self.requests, CALLERS, numbers))

            self._capacity = asyncio.run(measure())
            self.bench.say(f"capacity: {self._capacity:.2f} answers a second")
        return self._capacity

    def found(self, capacity: float, knee: int) -> None:
        """What the part that looks for them has measured."""
        self._capacity, self.knee = capacity, knee

    def close(self) -> None:
        self.bench.close()
        if self.sites is not None:
            self.sites.__exit__(None, None, None)
            self.sites = None
