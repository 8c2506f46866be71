"""What the tests of bad input share: a call said over gRPC and over HTTP, and the judge of what comes back."""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from bench.fuzz.run import SHOWN
from florence2_sam2.server.launch.embedded import EmbeddedServer

TIMEOUT = 120.0
# More that no message may show: names of shared memory, absolute paths of any kind.
INSIDE = re.compile(r"shm|triton_python_backend|florence2_sam2_\d|(?<![\w:/.;])/\w+/\w")
# What `segment_http` puts in front of a message that is not about the request.
_OTHER_CODES = ("UNAVAILABLE", "INTERNAL", "CANCELLED", "DEADLINE_EXCEEDED")

Tensor = tuple[str, NDArray[Any]]
# One call: name of an input → text or bytes (BYTES [1]), number (FP32 [1]), flag (BOOL [1]), options as a mapping, or
# a (datatype, array) that is sent as it is.
Inputs = Mapping[str, Any]


@dataclass(frozen=True)
class Reply:
    """What came back. `result` is the answer's JSON, `arrays` the outputs of gRPC, both empty where it was refused."""

    code: str
    message: str = ""
    result: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def found(self) -> list[dict[str, Any]]:
        """Everything that was found, kept or not."""
        return [*self.result["objects"], *self.result["filtered"]]


class Caller:
    """Asks one server, and holds every message against what no message may show."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._grpc = grpc.InferenceServerClient(server.grpc_address)
        self._url = f"http://{server.http_address}/v2/models/segment_http/generate"

    def close(self) -> None:
        self._grpc.close()

    def over_grpc(self, inputs: Inputs) -> Reply:
        """The call through `segment`."""
        sent = []
        for name, value in inputs.items():
            datatype, array = tensor(value)
            sent.append(grpc.InferInput(name, list(array.shape), datatype))
            sent[-1].set_data_from_numpy(array)
        try:
            answer = self._grpc.infer("segment", sent, client_timeout=TIMEOUT)
        except InferenceServerException as error:
            return _fair(Reply(str(error.status()).removeprefix("StatusCode."), error.message()), inputs)
        arrays = {row.name: answer.as_numpy(row.name) for row in answer.get_response().outputs}
        return _fair(Reply("OK", "", json.loads(arrays["result"][0]), arrays), inputs)

    def over_http(self, inputs: Inputs) -> Reply:
        """The call through `segment_http`."""
        return self.post(json.dumps(as_json(inputs)).encode(), inputs)

    def post(self, body: bytes, inputs: Inputs = {}) -> Reply:  # noqa: B006 - only read
        """Any body, to `segment_http`."""
        request = urllib.request.Request(self._url, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
                return _fair(Reply("OK", "", json.loads(json.load(answer)["result"])), inputs)
        except urllib.error.HTTPError as error:
            message = json.loads(error.read())["error"]
            code = next((name for name in _OTHER_CODES if message.startswith(name)), "INVALID_ARGUMENT")
            return _fair(Reply(code if error.code == 400 else f"HTTP {error.code}", message), inputs)

    def both(self, inputs: Inputs) -> dict[str, Reply]:
        """The call over gRPC, and over HTTP where JSON can say it."""
        replies = {"grpc": self.over_grpc(inputs)}
        if sayable(inputs):
            replies["http"] = self.over_http(inputs)
        return replies


def refused(replies: Mapping[str, Reply], field: str, *words: str) -> None:
    """Each reply is a refusal of the caller's mistake that begins with the field and has those words."""
    for way, reply in replies.items():
        assert reply.code == "INVALID_ARGUMENT", (way, reply)
        name = "image_base64" if (way, field) == ("http", "image") else field
        assert reply.message.startswith(f"{name}: "), (way, reply.message)
        assert all(word in reply.message for word in words), (way, reply.message)


def answered(replies: Mapping[str, Reply]) -> Reply:
    """Each reply is the same success: that of gRPC."""
    for way, reply in replies.items():
        assert reply.code == "OK", (way, reply.message)
        assert without_times(reply.result) == without_times(replies["grpc"].result), way
    return replies["grpc"]


def without_times(result: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name not in ("timings_ms", "request_id")}


def tensor(value: Any) -> Tensor:
    """The value as (datatype, array), see `Inputs`."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, Mapping):
        value = json.dumps(value)
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        array = np.empty(1, np.object_)
        array[0] = value
        return "BYTES", array
    return ("BOOL", np.array([value])) if isinstance(value, bool) else ("FP32", np.array([value], np.float32))


def sayable(inputs: Inputs) -> bool:
    """Whether JSON can say the same: one value each, texts of UTF-8. (Triton reads NaN and Infinity, too.)"""
    return not any(
        isinstance(value, tuple) or (isinstance(value, bytes) and name != "image")
        for name, value in inputs.items()
    )


def as_json(inputs: Inputs) -> dict[str, Any]:
    """The body of the same call over HTTP."""
    body = dict(inputs)
    if "image" in body:
        body["image_base64"] = base64.b64encode(body.pop("image")).decode()
    if isinstance(body.get("options"), Mapping):
        body["options"] = json.dumps(body["options"])
    return body


def _fair(reply: Reply, inputs: Inputs) -> Reply:
    """The reply, if its words are fit for a caller: one line, not long, nothing of the server's inside."""
    if reply.code != "OK":
        assert 0 < len(reply.message) <= 600, reply
    for message in (reply.message, *reply.result.get("warnings", ())):
        assert message.isprintable(), repr(message)
        told = message
        for own in inputs.values():  # what callers have written may come back to them
            if isinstance(own, str) and len(own) > 3:
                told = told.replace(own, "")
        assert not SHOWN.search(told), message
        assert not INSIDE.search(told), message
    return reply
