"""The same request gets the same answer, times aside: alone or beside others, first or again, in whatever way it comes.

Everything is compared, bit for bit: the JSON with its scores, the mask's PNG, the arrays.
"""

from __future__ import annotations

import base64
import itertools
import json
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from bad_input import Caller, Inputs, as_json, without_times
from drawn import OFF, SCENE
from picture_files import encoded
from PIL import Image

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings
from florence2_sam2.training.scenes import draw_scene

pytestmark = [pytest.mark.server, pytest.mark.timeout(600)]

SCENES = [draw_scene(np.random.default_rng(10_100 + seed), 128 + 64 * seed, 160) for seed in range(4)]
PICTURES = [encoded(Image.fromarray(scene.image), "PNG") for scene in SCENES]
BOXES = [[10, 10, 90, 90], [60, 60, 150, 150], [5, 100, 60, 155], [20, 20, 21, 21]]
FORMATS = ["rle", "coco", "geojson", "masks", "preview"]
# Every source of boxes, greedy and beams, texts of all lengths, every form of the answer.
SETTINGS: list[dict[str, Any]] = [
    OFF,
    {**OFF, "options": {"num_beams": 1}},
    {"area_threshold": 1.0, "options": {"num_beams": 5, "formats": FORMATS}},
    {**OFF, "output_mask": True, "options": {"max_new_tokens": 12}},
    {**OFF, "caption": "a ball"},
    {**OFF, "caption": SCENES[1].caption, "options": {"num_beams": 2}},
    {**OFF, "caption": "A red ball lies next to a blue square. " * 90, "options": {"num_beams": 1}},
    {**OFF, "options": {"phrases": [thing.phrase for thing in SCENES[3].objects], "nms": "mask"}},
    {**OFF, "options": {"task": "detection", "num_beams": 1, "view": "compact"}},
    {**OFF, "options": {"task": "detection", "normalized": True}},
    {**OFF, "polygon_precision": 0.0, "options": {"boxes": BOXES, "formats": FORMATS}},
    {"output_mask": True, "options": {"boxes": BOXES, "nms": "containment", "invert_mask": True}},
    {"options": {"tiles": 2, "num_beams": 1, "phrases": [SCENES[0].objects[0].phrase]}},
    {"confidence_threshold": 0.0, "options": {"num_beams": 8, "max_new_tokens": 30}},
    {"output_mask": True},
    {"area_threshold": 0.5, "options": {"num_beams": 1, "max_new_tokens": 700}},
]
QUESTIONS: list[Inputs] = [{"image": PICTURES[n % 4], **settings} for n, settings in enumerate(SETTINGS)]


@dataclass(frozen=True)
class Answer:
    """What has to be the same. `arrays` are gRPC's other outputs, None of a way that has none."""

    result: dict[str, Any]
    mask_png: bytes
    arrays: list[Any] | None = None

    def is_as(self, other: Answer) -> bool:
        arrays = self.arrays is None or other.arrays is None or self.arrays == other.arrays
        return (self.result, self.mask_png) == (other.result, other.mask_png) and arrays


def _answer(result: dict[str, Any], mask_png: bytes | None = None, arrays: list[Any] | None = None) -> Answer:
    kept = without_times(result)
    kept["parameters"] = {**kept["parameters"], "priority": None}
    url = str(kept.get("mask_url", ""))
    assert mask_png is None or mask_png == base64.b64decode(url.partition(",")[2])
    return Answer(kept, base64.b64decode(url.partition(",")[2]), arrays)


class Server:
    """A server that is asked in every way."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self.caller = Caller(server)

    def grpc(self, inputs: Inputs) -> Answer:
        reply = self.caller.over_grpc(inputs)
        assert reply.code == "OK", reply.message
        arrays = [reply.arrays[name].tolist() for name in ("boxes", "scores", "labels")]
        return _answer(reply.result, reply.arrays["mask_png"][0], arrays)

    def bulk(self, inputs: Inputs) -> Answer:
        return self.grpc({**inputs, "options": {**inputs.get("options", {}), "priority": "bulk"}})

    def http(self, inputs: Inputs) -> Answer:
        reply = self.caller.over_http(inputs)
        assert reply.code == "OK", reply.message
        return _answer(reply.result)

    def stream(self, inputs: Inputs) -> Answer:
        url = f"http://{self.server.http_address}/v2/models/segment_stream/generate_stream"
        request = urllib.request.Request(url, json.dumps(as_json(inputs)).encode())
        with urllib.request.urlopen(request, timeout=120) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith("data:")]
        return _answer(json.loads(json.loads(lines[-1].removeprefix("data:"))["event"])["result"])

    def ways(self) -> list[Callable[[Inputs], Answer]]:
        return [self.grpc, self.http, self.stream, self.bulk]

    def ask(self, at_once: int, shift: int = 0) -> list[Answer]:
        """All questions, so many at once, the first in way `shift`, the next in the next one."""
        ways = itertools.islice(itertools.cycle(self.ways()), shift, None)
        with ThreadPoolExecutor(at_once) as pool:
            return list(pool.map(lambda way, inputs: way(inputs), ways, QUESTIONS))


@pytest.fixture(scope="module")
def plain(server: EmbeddedServer) -> Iterator[Server]:
    """The server of all tests: it remembers, and works through the stages one after the other."""
    opened = Server(server)
    yield opened
    opened.caller.close()


@pytest.fixture(scope="module")
def alone(plain: Server) -> list[Answer]:
    """What each question is answered when nothing else is asked."""
    answers = [plain.grpc(inputs) for inputs in QUESTIONS]
    found = [answer for answer in answers if answer.result.get("objects") or answer.result.get("labels")]
    assert len(found) >= 14, "there is hardly anything to compare"
    assert len({json.dumps(answer.result["caption"]) for answer in answers}) >= 6
    return answers


@pytest.fixture(scope="module")
def other() -> Iterator[Server]:
    """Another server, which remembers nothing and runs SAM2's encoder beside the decoding."""
    with EmbeddedServer(settings=Settings(memory_bytes=0, overlap_sam2=True)) as started:
        opened = Server(started)
        yield opened
        opened.caller.close()


def compare(answers: list[Answer], alone: list[Answer]) -> None:
    differing = {}
    for number, (answer, expected) in enumerate(zip(answers, alone, strict=True)):
        if not answer.is_as(expected):
            differing[number] = [
                name for name in expected.result if answer.result.get(name) != expected.result[name]
            ] or ["mask_png or arrays"]
    assert not differing, f"what differs, by question: {differing}"


def test_a_repeated_question_has_the_same_answer(plain: Server, alone: list[Answer]) -> None:
    for shift in range(4):
        compare(plain.ask(at_once=4, shift=shift), alone)


def test_sixteen_at_once_answer_as_one_alone(other: Server, alone: list[Answer]) -> None:
    """In another server: what that one remembers would prove nothing. Each question comes in two ways."""
    compare(other.ask(at_once=16), alone)
    compare(other.ask(at_once=16, shift=1), alone)


def test_equal_questions_at_once_share_work_and_answer(plain: Server, alone: list[Answer]) -> None:
    """In bytes that nobody has sent before, so that one call's work is joined by the others."""
    for number in (0, 2, 11):
        fresh = {**QUESTIONS[number], "image": QUESTIONS[number]["image"] + b"joined"}
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda way, inputs=fresh: way(inputs), plain.ways() * 2))
        compare(answers, [alone[number]] * 8)


@pytest.mark.long
@pytest.mark.parametrize("overlap", [False, True], ids=["one by one", "overlap"])
@pytest.mark.parametrize(
    "memory", [0, 4 * 2**20, 128 * 2**20], ids=["forgets", "remembers little", "remembers"]
)
def test_servers_of_any_settings_agree(alone: list[Answer], memory: int, overlap: bool) -> None:
    """At any concurrency, in every way, first and again, and once more after the server was started again."""
    with EmbeddedServer(settings=Settings(memory_bytes=memory, overlap_sam2=overlap)) as started:
        asked = Server(started)
        for at_once, shift in ((1, 0), (4, 1), (16, 2), (16, 3)):
            compare(asked.ask(at_once, shift), alone)
        started.restart()
        started.wait_ready()
        compare(asked.ask(at_once=16), alone)
        asked.caller.close()


# -- the memory of pictures is no cache of answers

NEIGHBOURS = {"boxes": [[20, 20, 80, 80], [30, 20, 80, 80], [120, 30, 160, 70]]}
ONE_THRESHOLD: list[tuple[str, float, float]] = [
    ("area_threshold", 1.0, 0.1),
    ("confidence_threshold", 0.0, 1.0),
    ("nms_threshold", 1.0, 0.5),
    ("polygon_precision", 0.0, 0.05),
]


@pytest.mark.parametrize(("name", "one", "another"), ONE_THRESHOLD, ids=[row[0] for row in ONE_THRESHOLD])
def test_one_other_threshold_is_another_answer(plain: Server, name: str, one: float, another: float) -> None:
    def ask(value: float) -> Any:
        return plain.grpc({"image": SCENE, **OFF, "options": NEIGHBOURS, name: value}).result["objects"]

    first = ask(one)
    assert ask(another) != first
    assert ask(one) == first
    answers = {value: ask(value) for value in np.linspace(0, 1, 11).round(1).tolist()}
    assert all(ask(value) == answers[value] for value in reversed(answers))
