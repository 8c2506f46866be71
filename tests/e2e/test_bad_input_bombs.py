"""Bombs through the real server: refused from the header, in the time and memory of any other refusal."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

import pytest
from bad_input import Caller, Inputs, Reply, answered, refused
from bombs import TOO_LARGE, around_the_pixels, busy_work
from bystanders import growth, processes
from drawn import SCENE

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("watched")]

SECONDS = 0.1
MEGABYTES = 50.0
TRIES = 3
# On a busy machine an ordinary refusal takes longer too; a bomb may then take so many times as long as that.
TIMES = 3.0
# Triton keeps room for the largest messages that it has had, in each process that they pass; it does not add up, see
# `test_what_a_refused_request_has_brought_is_given_back`. For the fixture `watched`.
GROWN_MB = 500.0
# Triton and the processes that a picture passes on its way to being refused.
ON_THE_WAY = ("bin/tritonserver", "/segment/", "/segment_http/")


def costs_nothing(
    server: EmbeddedServer, caller: Caller, bomb: Inputs, megabytes: float = MEGABYTES
) -> Reply:
    """The reply to the bomb, which is held against refusals of as many bytes, in turns with it.

    These are refused for a threshold, before anybody looks at the picture: what they take is the way there and back.
    """
    ordinary, pids = {**bomb, "area_threshold": 2.0}, processes(server, *ON_THE_WAY)
    refused(
        {"grpc": caller.over_grpc(ordinary)}, "area_threshold"
    )  # what such a message takes once and for all
    seconds: dict[str, list[float]] = {"ordinary": [], "bomb": []}
    peaks: dict[str, list[float]] = {"ordinary": [], "bomb": []}
    for _ in range(TRIES):
        for kind, inputs in (("ordinary", ordinary), ("bomb", bomb)):
            with growth(pids) as grown:
                began = time.perf_counter()
                reply = caller.over_grpc(inputs)
                seconds[kind].append(time.perf_counter() - began)
            peaks[kind].append(grown.peak)
    usual = median(seconds["ordinary"])
    assert min(seconds["bomb"]) < max(usual + SECONDS, TIMES * usual), seconds
    assert min(peaks["bomb"]) < median(peaks["ordinary"]) + megabytes, peaks
    return reply


@pytest.mark.parametrize("name", TOO_LARGE)
def test_too_many_pixels(server: EmbeddedServer, caller: Caller, name: str) -> None:
    reply = costs_nothing(server, caller, {"image": TOO_LARGE[name]})
    refused(
        {"grpc": reply, "http": caller.over_http({"image": TOO_LARGE[name]})},
        "image",
        "this server takes up to",
    )


BUSY = busy_work()


@pytest.mark.parametrize("words", [words for words in BUSY if words != "bytes"])
def test_what_would_keep_a_decoder_busy(server: EmbeddedServer, caller: Caller, words: str) -> None:
    refused({"grpc": costs_nothing(server, caller, {"image": BUSY[words]})}, "image", words)


AROUND = around_the_pixels()


@pytest.mark.parametrize("name", AROUND)
def test_what_surrounds_the_pixels(server: EmbeddedServer, caller: Caller, name: str) -> None:
    reply = costs_nothing(server, caller, {"image": AROUND[name], "options": {"boxes": []}})
    assert answered({"grpc": reply}).result["image"] == {"width": 8, "height": 8}


LIMIT = Settings().max_image_bytes
LARGE = SCENE + bytes(LIMIT + 1 - len(SCENE))


def test_a_file_over_the_byte_limit(server: EmbeddedServer, caller: Caller) -> None:
    words = (f"{LIMIT + 1} bytes", f"up to {LIMIT}")
    refused({"grpc": costs_nothing(server, caller, {"image": LARGE})}, "image", *words)
    refused({"http": caller.over_http({"image": LARGE})}, "image", f"more than the {LIMIT} bytes")


@pytest.mark.long
def test_a_data_url_over_the_byte_limit(server: EmbeddedServer, caller: Caller) -> None:
    """It is text first of all, which is one more of it in memory than bytes are."""
    url = "data:image/png;base64," + base64.b64encode(LARGE).decode()
    reply = costs_nothing(server, caller, {"image_url": url}, MEGABYTES + len(url) / 2**20)
    refused({"grpc": reply}, "image_url", f"more than the {LIMIT} bytes")


def test_what_a_refused_request_has_brought_is_given_back(server: EmbeddedServer, caller: Caller) -> None:
    """At once, not when Python happens to look for garbage: else each would leave several times its size.

    Triton's own process goes up and down by room for several messages, whatever their number.
    """
    wrong, size, calls = {"image": LARGE, "area_threshold": 2.0}, len(LARGE) / 2**20, 8
    triton, *models = ON_THE_WAY
    for ask in (caller.over_grpc, caller.over_http):
        ask(wrong)
        ours_of, its_of = processes(server, *models), processes(server, triton)
        with growth(its_of, calls * size) as its, growth(ours_of, size) as ours:
            for _ in range(calls):
                ask(wrong)
        assert ours.left < size, f"{ours.left:.0f} MB are kept"
        assert its.left < calls * size, f"{its.left:.0f} MB are kept"


def test_many_bombs_at_once_beside_each_other(caller: Caller) -> None:
    """The ordinary client goes on meanwhile: see `watched`."""
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda data: caller.over_grpc({"image": data}), [*TOO_LARGE.values()] * 8))
    assert {reply.code for reply in replies} == {"INVALID_ARGUMENT"}
