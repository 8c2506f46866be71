"""The base of our python models keeps its promises inside a real Triton: many requests in flight in one
instance,
cancelling seen, errors with their codes across models, drained at the end."""

from __future__ import annotations

import concurrent.futures
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from calls import infer, until
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.manifest import packaged_repository

pytestmark = pytest.mark.server

CONFIG = """
name: "{name}"
backend: "python"
max_batch_size: 0
input [
  {{ name: "do" data_type: TYPE_STRING dims: [ 1 ] optional: true }},
  {{ name: "rows" data_type: TYPE_FP32 dims: [ -1, 4 ] optional: true }}
]
output [
  {{ name: "rows" data_type: TYPE_FP32 dims: [ -1, 4 ] }},
  {{ name: "labels" data_type: TYPE_STRING dims: [ -1 ] }}
]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""
# Does what it is told, and answers the rows doubled.
INNER = """
import asyncio
import time
import numpy as np
from florence2_sam2.server import errors
from florence2_sam2.server.triton import tensors
from florence2_sam2.server.triton.async_model import AsyncModel


class TritonPythonModel(AsyncModel):
    async def start(self):
        print(f"{self.name} starts", flush=True)

    async def stop(self):
        print(f"{self.name} stops", flush=True)

    async def answer(self, call):
        verb, _, detail = (tensors.text_input(call.request, "do") or "").partition(" ")
        rows = tensors.array_input(call.request, "rows", np.float32, [None, 4])
        if verb == "invalid":
            raise errors.InvalidRequest("caption", detail)
        if verb == "overloaded":
            raise errors.Overloaded(detail)
        if verb == "late":
            raise errors.DeadlinePassed(detail)
        if verb == "bug":
            raise KeyError(detail)
        if verb == "sleep":
            await asyncio.sleep(float(detail))
        if verb == "watch":
            try:
                await asyncio.sleep(30)
            finally:
                assert call.cancelled()
                print("given up", flush=True)
        if verb == "poll":
            while not call.cancelled():
                time.sleep(0.01)
            print("given up", flush=True)
        if verb == "say":
            for number in range(int(detail)):
                call.say({"number": number})
        if rows is None:
            rows = np.zeros((0, 4), np.float32)
        return [
            tensors.array_output("rows", 2 * rows),
            tensors.bytes_output("labels", *(b"\\0label\\xff\\0" for _ in rows)),
        ]
"""
# Hands everything on to the inner model.
OUTER = """
import numpy as np
from florence2_sam2.server.triton import bls, tensors
from florence2_sam2.server.triton.async_model import AsyncModel


class TritonPythonModel(AsyncModel):
    async def answer(self, call):
        rows = tensors.array_input(call.request, "rows", np.float32, [None, 4])
        inputs = {} if rows is None else {"rows": rows}
        do = tensors.bytes_input(call.request, "do")
        if do is not None:
            inputs["do"] = tensors.bytes_array([do])
        if do is not None and do.startswith((b"watch", b"say")):
            heard = []
            await bls.call_with_line("inner", inputs, ["rows"], heard.append)
            return [
                tensors.array_output("rows", np.zeros((0, 4), np.float32)),
                tensors.bytes_output("labels", *(b"%d" % event["number"] for event in heard)),
            ]
        if do == b"hand on":
            first = await bls.call_for_tensors("inner", inputs, ["rows"])
            for _ in range(3):  # nor may what is held change meanwhile
                await bls.call("inner", {"rows": np.full(rows.shape, 7, np.float32)}, ["rows"])
            again = [await bls.call("inner", first, ["rows", "labels"]) for _ in range(2)]
            assert (again[0]["rows"] == again[1]["rows"]).all()
            return [
                tensors.array_output("rows", again[0]["rows"]),
                tensors.bytes_output("labels", *again[0]["labels"]),
            ]
        timeout = 0.5 if do == b"sleep 4" else None
        first = await bls.call("inner", inputs, ["rows", "labels"], timeout)
        kept = {name: array.copy() for name, array in first.items()}
        for _ in range(3):  # what was answered must not change when its shared memory is used again
            await bls.call("inner", {"rows": np.full(first["rows"].shape, 7, np.float32)}, ["rows"])
        assert all((first[name] == kept[name]).all() for name in kept)
        return [tensors.array_output("rows", first["rows"]), tensors.bytes_output("labels", *first["labels"])]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    repository = tmp_path_factory.mktemp("models") / "repository"
    shutil.copytree(packaged_repository(), repository)
    for name, source in (("inner", INNER), ("outer", OUTER)):
        folder = repository / name / "1"
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(source, encoding="utf-8")
        (folder.parent / "config.pbtxt").write_text(CONFIG.format(name=name), encoding="utf-8")
    with EmbeddedServer(repository, models=["inner", "outer"]) as server:
        yield server


def do(
    server: EmbeddedServer,
    model: str,
    text: str | None,
    rows: NDArray[Any] | None = None,
    timeout: float = 30,
) -> dict[str, NDArray[Any]]:
    inputs: dict[str, NDArray[Any] | bytes] = {}
    if text is not None:
        inputs["do"] = text.encode()
    if rows is not None:
        inputs["rows"] = rows
    return infer(server.grpc_address, model, inputs, timeout=timeout)


def logged(server: EmbeddedServer) -> str:
    return server.log_path.read_text("utf-8", "replace")


def refusal(server: EmbeddedServer, model: str, text: str) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        do(server, model, text)
    return str(caught.value.status()).removeprefix("StatusCode."), str(caught.value.message())


@pytest.mark.parametrize("model", ["inner", "outer"])
@pytest.mark.parametrize("count", [0, 1, 5, 100_000])
def test_tensors_of_every_length_pass(running: EmbeddedServer, model: str, count: int) -> None:
    rows = np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)
    answer = do(running, model, None, rows)
    np.testing.assert_array_equal(answer["rows"], 2 * rows)
    assert answer["rows"].shape == (count, 4)
    assert answer["labels"].tolist() == [b"\0label\xff\0"] * count


@pytest.mark.parametrize("count", [0, 1, 100_000])
def test_an_answers_tensors_can_be_handed_on(running: EmbeddedServer, count: int) -> None:
    rows = np.random.default_rng(count).normal(size=(count, 4)).astype(np.float32)
    answer = do(running, "outer", "hand on", rows)
    np.testing.assert_array_equal(answer["rows"], 4 * rows)


@pytest.mark.parametrize("model", ["inner", "outer"])
def test_absent_inputs_are_none(running: EmbeddedServer, model: str) -> None:
    assert do(running, model, None)["rows"].shape == (0, 4)


@pytest.mark.parametrize("model", ["inner", "outer"])
@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("invalid is too: “long”", "INVALID_ARGUMENT", "caption: is too: “long”"),
        ("overloaded try again", "UNAVAILABLE", "try again"),
        ("late too slow", "CANCELLED", "DEADLINE_EXCEEDED: too slow"),
    ],
    ids=["invalid", "overloaded", "late"],
)
def test_a_refusal_keeps_its_code_and_its_words(
    running: EmbeddedServer, model: str, text: str, code: str, message: str
) -> None:
    assert refusal(running, model, text) == (code, message)


@pytest.mark.parametrize("model", ["inner", "outer"])
def test_a_bug_is_a_reference_to_the_log(running: EmbeddedServer, model: str) -> None:
    code, message = refusal(running, model, "bug /a/secret/path")
    assert code == "INTERNAL"
    text, _, reference = message.rpartition(" ")
    assert text == "internal error in inner, reference"
    assert until(lambda: reference in logged(running), 3)
    assert "/a/secret/path" in logged(running)


def test_a_call_that_takes_too_long_is_given_up(running: EmbeddedServer) -> None:
    began = time.monotonic()
    code, message = refusal(running, "outer", "sleep 4")
    assert time.monotonic() - began < 2
    assert (code, message) == ("CANCELLED", "DEADLINE_EXCEEDED: inner did not answer within 0.5 s")


@pytest.mark.parametrize("model", ["inner", "outer"])
def test_many_requests_wait_at_once_in_one_instance(running: EmbeddedServer, model: str) -> None:
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(48) as pool:
        done = list(pool.map(lambda _: do(running, model, "sleep 1"), range(48)))
    assert len(done) == 48
    assert time.monotonic() - began < 6, "one after the other takes 48 s"


@pytest.mark.parametrize(("model", "text"), [("inner", "watch"), ("inner", "poll"), ("outer", "watch")])
def test_a_client_that_goes_is_noticed(running: EmbeddedServer, model: str, text: str) -> None:
    """Also by a model that another one has called for it, and by one that only asks."""
    before = logged(running).count("given up")
    with pytest.raises(InferenceServerException, match="Deadline"):
        do(running, model, text, timeout=0.3)
    assert until(lambda: logged(running).count("given up") == before + 1, 3)


@pytest.mark.parametrize("count", [0, 1, 2000])
def test_what_a_model_says_is_heard_before_its_answer(running: EmbeddedServer, count: int) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: do(running, "outer", f"say {count}")["labels"].tolist(), range(8)))
    assert answers == [[b"%d" % number for number in range(count)]] * 8


def test_one_that_nobody_listens_to_says_nothing(running: EmbeddedServer) -> None:
    assert do(running, "inner", "say 3")["rows"].shape == (0, 4)


def test_a_refused_request_does_not_hurt_those_beside_it(running: EmbeddedServer) -> None:
    def ask(text: str) -> str:
        try:
            do(running, "outer", text)
        except InferenceServerException as error:
            return str(error.status())
        return "OK"

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, ["sleep 0.2", "bug x", "invalid x", "overloaded x"] * 6))
    wanted = ["OK", "StatusCode.INTERNAL", "StatusCode.INVALID_ARGUMENT", "StatusCode.UNAVAILABLE"]
    assert answers == wanted * 6
