"""Calls of `segment` as bytes, over gRPC for asyncio.

This process shares its cores with the server, so it does as little as it can while it measures: a request is put
together of bytes, and an answer is kept as bytes until the measurement is over.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio
import numpy as np
from tritonclient.grpc import service_pb2 as pb

from bench.speed.direct import inputs_of

METHOD = "/inference.GRPCInferenceService/ModelInfer"
# Callers are many, so they do not share one connection.
CONNECTIONS = 4
OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
]
CONNECT_SECONDS = 30.0
LIMIT_SECONDS = 600.0  # of a call; a measurement that hangs is to end
TYPES = {"float32": "FP32", "bool": "BOOL"}

REFUSED = "UNAVAILABLE"


@dataclass(frozen=True)
class Sample:
    """One call. Seconds since its load began: when it was due, sent, and over. `code`: its gRPC status."""

    number: int
    due: float
    sent: float
    ended: float
    code: str
    details: str = ""
    answer: bytes = field(default=b"", repr=False)

    @property
    def seconds(self) -> float:
        """From when it was due: a caller that is late makes its call no faster."""
        return self.ended - self.due

    @property
    def answered(self) -> bool:
        return self.code == "OK"

    @property
    def refused(self) -> bool:
        return self.code == REFUSED

    def fault(self, allowed: Sequence[str] = ()) -> str:
        """What is wrong with its outcome, empty when nothing is. `allowed`: statuses that are fine beside OK."""
        if not self.answered:
            return "" if self.code in allowed else f"{self.code}: {self.details[:200]}"
        try:
            (result,) = read_bytes(self.answer, "result")
            body = json.loads(result)
            return (
                "" if isinstance(body["objects"], list) and body["image"]["width"] > 0 else "no answer in it"
            )
        except (ValueError, KeyError, TypeError) as error:
            return f"the answer cannot be read: {type(error).__name__}: {error}"


def read_bytes(answer: bytes, name: str) -> list[bytes]:
    """The elements of a BYTES output of a serialised ModelInferResponse.

    Raises:
        ValueError: it is none, or has no such output.
    """
    try:
        message = pb.ModelInferResponse.FromString(answer)
    except Exception as error:  # protobuf's own kind hangs on its implementation
        raise ValueError(str(error)) from None
    for output, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        if output.name == name:
            elements = []
            while raw:
                (length,) = struct.unpack_from("<I", raw)
                elements.append(raw[4 : 4 + length])
                raw = raw[4 + length :]
            return elements
    raise ValueError(f"there is no output {name}")


def request_of(inputs: Mapping[str, bytes | np.ndarray]) -> bytes:
    """A serialised ModelInferRequest of `segment` for its `result`. Inputs are of shape [1]."""
    message = pb.ModelInferRequest(model_name="segment")
    message.outputs.add(name="result")
    for name, value in inputs.items():
        is_bytes = isinstance(value, bytes)
        message.inputs.add(name=name, datatype="BYTES" if is_bytes else TYPES[str(value.dtype)], shape=[1])
        raw = struct.pack("<I", len(value)) + value if isinstance(value, bytes) else value.tobytes()
        message.raw_input_contents.append(raw)
    return message.SerializeToString()


def with_comment(jpeg: bytes, text: bytes) -> bytes:
    """The same picture in a file that differs: a server's memory knows pictures by their files."""
    return jpeg[:2] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + jpeg[2:]


@dataclass(frozen=True)
class Requests:
    """A request for each number, with a file that no other number has. `files`: JPEG, taken in turns."""

    files: Sequence[bytes]
    settings: Mapping[str, Any]

    def __call__(self, number: int) -> bytes:
        return request_of(self.inputs(number))

    def inputs(self, number: int) -> dict[str, Any]:
        file = with_comment(self.files[number % len(self.files)], b"%d" % number)
        return inputs_of(file, dict(self.settings))

    def of_url(self, url: str) -> bytes:
        """The same settings for a picture that the server has to fetch."""
        inputs = inputs_of(b"", dict(self.settings))
        del inputs["image"]
        return request_of({"image_url": url.encode(), **inputs})

    def with_settings(self, **more: Any) -> Requests:
        return Requests(self.files, {**self.settings, **more})


class Wire:
    """Connections to one server; belongs to the event loop on which it is entered."""

    def __init__(self, address: str, limit: float = LIMIT_SECONDS) -> None:
        self._address, self._limit = address, limit

    async def __aenter__(self) -> Self:
        self._channels = [grpc.aio.insecure_channel(self._address, OPTIONS) for _ in range(CONNECTIONS)]
        self._calls = itertools.cycle([channel.unary_unary(METHOD) for channel in self._channels])
        ready = asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        await asyncio.wait_for(ready, CONNECT_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def ask(self, number: int, request: bytes, began: float, due: float | None = None) -> Sample:
        """Send a call now. `began`: of the load, and `due`: of the call, on the loop's clock."""
        clock = asyncio.get_running_loop().time
        sent = clock()
        answer, code, details = b"", "OK", ""
        try:
            answer = await next(self._calls)(request, timeout=self._limit)
        except grpc.aio.AioRpcError as error:
            code, details = error.code().name, error.details() or ""
        ended = clock()
        return Sample(
            number, (sent if due is None else due) - began, sent - began, ended - began, code, details, answer
        )
