"""A model hears from the model that it calls, and that one hears when it is not waited for any more."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from florence2_sam2.server.triton import lines
from florence2_sam2.server.triton.lines import Exchange, Line


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def test_what_is_said_is_heard_in_order_and_whole() -> None:
    async def scenario() -> None:
        heard: list[Any] = []
        said = [{"n": n, "text": "é\n" * n * n} for n in range(200)]
        async with Exchange().line(heard.append) as opened:
            assert opened.ended.is_set()  # nobody has taken it up
            line = await Line.connect(opened.address)
            assert line is not None
            await line.taken()
            assert not opened.ended.is_set()
            for event in said:
                line.say(event)
            line.end()
            await opened.ended.wait()
            assert heard == said

    run(scenario)


def test_lines_of_one_exchange_do_not_mix() -> None:
    async def scenario() -> None:
        exchange = Exchange()
        heard: dict[int, list[Any]] = {}

        async def one(number: int) -> None:
            heard[number] = []
            async with exchange.line(heard[number].append) as opened:
                line = await Line.connect(opened.address)
                assert line is not None
                await line.taken()
                for at in range(20):
                    line.say({"number": number, "at": at})
                    await asyncio.sleep(0)
                line.end()
                await opened.ended.wait()

        await asyncio.gather(*(one(number) for number in range(30)))
        assert heard == {n: [{"number": n, "at": at} for at in range(20)] for n in range(30)}

    run(scenario)


def test_what_is_said_before_the_line_is_taken_up_is_heard_too() -> None:
    async def scenario() -> None:
        heard: list[Any] = []
        async with Exchange().line(heard.append) as opened:
            line = await Line.connect(opened.address)
            assert line is not None
            line.say({"early": 1})
            await line.taken()
            line.end()
            await opened.ended.wait()
            assert heard == [{"early": 1}]

    run(scenario)


def test_a_caller_may_begin_to_listen_before_and_after_the_line_is_taken() -> None:
    async def scenario() -> None:
        exchange = Exchange()
        for early in (True, False):
            async with exchange.line(lambda _: None) as opened:
                if early:
                    opened.listen()
                line = await Line.connect(opened.address)
                assert line is not None
                await line.taken()
                await asyncio.sleep(0.02)
                assert line.listened == early
                opened.listen()
                await until(lambda line=line: line.listened)  # type: ignore[misc]
                opened.listen()  # again does nothing
                line.end()
                await opened.ended.wait()
            opened.listen()  # after its end neither

    run(scenario)


def test_who_hangs_up_is_noticed() -> None:
    async def scenario() -> None:
        async with Exchange().line(lambda _: None) as opened:
            line = await Line.connect(opened.address)
            assert line is not None
            await line.taken()
            assert not line.hung_up
        await until(lambda: line.hung_up)
        line.say({"nobody": "hears this"})
        line.end()

    run(scenario)


def test_a_line_that_was_given_up_before_it_was_taken_is_hung_up() -> None:
    async def scenario() -> None:
        async with Exchange().line(lambda _: None) as opened:
            pass
        line = await Line.connect(opened.address)
        assert line is not None
        await line.taken()
        assert line.hung_up

    run(scenario)


@pytest.mark.parametrize(
    "address", ["", "x", "/etc/passwd", f"{'0' * 32}/{'0' * 32}", f"{'0' * 32}/../../tmp/x"]
)
def test_no_address_is_no_line(address: str) -> None:
    async def scenario() -> None:
        assert await Line.connect(address) is None

    run(scenario)


def test_a_line_that_never_was_taken_up_does_not_keep_its_caller() -> None:
    async def scenario() -> None:
        async with Exchange().line(lambda _: None) as opened:
            await asyncio.wait_for(opened.ended.wait(), 0.1)

    run(scenario)


def test_the_process_of_another_user_is_not_talked_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either end refuses: here each believes that it is somebody else."""

    async def scenario() -> None:
        heard: list[Any] = []
        async with Exchange().line(heard.append) as opened:
            ours = os.geteuid()
            monkeypatch.setattr(lines.os, "geteuid", lambda: ours + 1)
            line = await Line.connect(opened.address)
            assert line is not None
            await line.taken()
            assert line.hung_up
            line.say({"secret": 1})
            await asyncio.sleep(0.05)
            assert heard == []

    run(scenario)


def test_a_stranger_at_the_socket_is_hung_up_on() -> None:
    async def scenario() -> None:
        heard: list[Any] = []
        async with Exchange().line(heard.append) as opened:
            name = opened.address.split("/")[0]
            with socket.socket(socket.AF_UNIX) as stranger:
                stranger.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(stranger, f"\0florence2-sam2-{name}")
                await loop.sock_sendall(stranger, b'\xff\xfe no token\n{"event": "forged"}\n')
                assert await loop.sock_recv(stranger, 10) == b""
            assert heard == []

    run(scenario)
