"""A client's fetch ends with the call's timeout, takes its time from it, and holds up nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from client_fetches import AWAITED, after, allowing, segment, silence
from kserve_peer import ANSWER, serving
from url_servers import Server, answer, sends

from florence2_sam2.client import AsyncSegmenter, DeadlineExceeded, InvalidRequest


@AWAITED
def test_a_timeout_ends_the_fetch(awaited: bool, serve: Callable[..., Server]) -> None:
    web = serve(silence)
    start = time.monotonic()
    with serving() as peer:
        with pytest.raises(DeadlineExceeded, match="image: the timeout passed while the URL was fetched"):
            segment(peer, web.url(), allowing(web), awaited, timeout=0.3)
        assert peer.received == []
    assert time.monotonic() - start < 5  # the rules alone would let it go on for 10


@AWAITED
def test_fetching_takes_its_time_from_the_timeout(awaited: bool, serve: Callable[..., Server]) -> None:
    """Each half fits into the timeout by itself, both together do not."""

    def slowly(_: Any) -> tuple[dict[str, Any], bytes]:
        time.sleep(1.2)
        return ANSWER, b""

    web = serve(after(1.0, answer()))
    with serving(slowly) as peer:
        with pytest.raises(DeadlineExceeded, match=r"did not answer in time: the timeout is 2 s"):
            segment(peer, web.url(), allowing(web), awaited, timeout=2)
        assert len(peer.received) == 1
        assert segment(peer, web.url(), allowing(web), awaited, timeout=30).width == 12


def test_slow_web_servers_hold_up_neither_the_loop_nor_its_threads(serve: Callable[..., Server]) -> None:
    web = serve(silence)

    async def main(address: str) -> None:
        rules = allowing(web, total_seconds=60)
        async with AsyncSegmenter(address, fetch="client", url_rules=rules) as client:
            slow = [asyncio.create_task(client.segment(web.url(), timeout=60)) for _ in range(40)]
            end = time.monotonic() + 30
            while web.connections < 16:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)
            # More than `asyncio.to_thread` has threads on any machine of the tests, and files are still read.
            assert (await asyncio.wait_for(client.segment(b"picture"), 20)).width == 12
            await asyncio.sleep(0.2)
            assert web.connections == 16
            for task in slow:
                task.cancel()
            began = time.monotonic()
            gone = await asyncio.gather(*slow, return_exceptions=True)
            assert time.monotonic() - began < 10
            assert all(isinstance(one, asyncio.CancelledError) for one in gone)

    with serving() as peer:
        began = time.monotonic()
        asyncio.run(main(peer.address))
        assert time.monotonic() - began < 55  # nor does the loop's end wait for them
        assert len(peer.received) == 1


def test_a_place_is_waited_for_no_longer_than_the_timeout(serve: Callable[..., Server]) -> None:
    web, quick = serve(silence), serve(sends(b""))

    async def main() -> None:
        rules = allowing(web, quick, total_seconds=4)
        async with AsyncSegmenter("127.0.0.1:1", fetch="client", url_rules=rules) as client:
            slow = [asyncio.create_task(client.segment(web.url())) for _ in range(16)]
            while web.connections < 16:
                await asyncio.sleep(0.02)
            with pytest.raises(DeadlineExceeded, match="image: the timeout passed"):
                await client.segment(web.url(), timeout=0.2)
            assert not any(task.done() for task in slow)
            later = await asyncio.gather(*slow, return_exceptions=True)
            assert all(isinstance(one, InvalidRequest) for one in later)
            # and what had a place has given it back
            with pytest.raises(InvalidRequest, match="broke off"):
                await client.segment(quick.url())

    asyncio.run(asyncio.wait_for(main(), 60))
    assert (web.connections, quick.connections) == (16, 1)
