"""A gRPC server that speaks Triton's protocol and answers `segment` with what a test says: the client's other side."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as messages
from tritonclient.grpc import service_pb2_grpc

# The example of the contract: one object with a hole, one left out by its area.
ANSWER: dict[str, Any] = {
    "image": {"width": 12, "height": 8},
    "caption": "The image shows a ring on a wooden table.",
    "caption_source": "florence2",
    "objects": [
        {
            "label": "a ring",
            "box": [1, 1, 7, 6],
            "area_ratio": 0.3125,
            "score": 0.947,
            "mask_area": 24,
            "polygons": [
                {"exterior": [[1, 1], [7, 1], [7, 6], [1, 6]], "holes": [[[3, 3], [3, 4], [6, 4], [6, 3]]]},
                {"exterior": [[9, 2], [10, 2], [10, 3], [9, 3]], "holes": []},
            ],
        }
    ],
    "filtered": [
        {"label": "a wooden table", "box": [0, 4, 12, 8], "area_ratio": 0.51, "score": None, "reason": "area"}
    ],
    "parameters": {
        "area_threshold": 0.3,
        "confidence_threshold": 0.5,
        "nms_threshold": 0.5,
        "polygon_precision": 0.001,
        "output_mask": False,
    },
    "models": {
        "florence2": {"checkpoint": "small", "sha256": "ab", "precision": "fp32"},
        "sam2": {"checkpoint": "small", "sha256": "cd", "precision": "fp32"},
    },
    "warnings": ["caption: cut at a sentence"],
    "timings_ms": {
        "decode": 1.5,
        "caption": 20.0,
        "ground": 18.0,
        "embed": 7.0,
        "masks": 3.0,
        "postprocess": 1.0,
    },
}


class Refusal(Exception):
    """Answer with this gRPC status instead."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


Reply = Callable[[messages.ModelInferRequest], tuple[dict[str, Any], bytes]]
Tell = Callable[[messages.ModelInferRequest], Iterable[dict[str, Any]]]


def answer(_: messages.ModelInferRequest) -> tuple[dict[str, Any], bytes]:
    return ANSWER, b""


class Peer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """`reply` decides each answer, `tell` the events of each stream; `received` keeps the requests; `ready` is what the
    health calls say.
    """

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.tell: Tell = lambda _: ()
        self.ready = True
        self.received: list[messages.ModelInferRequest] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.address = ""

    def ServerReady(self, request: Any, context: Any) -> Any:
        return messages.ServerReadyResponse(ready=self.ready)

    def ModelReady(self, request: Any, context: Any) -> Any:
        return messages.ModelReadyResponse(ready=self.ready and request.name == "segment")

    def ModelInfer(self, request: messages.ModelInferRequest, context: grpc.ServicerContext) -> Any:
        self.received.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            body, mask = self.reply(request)
        except Refusal as refusal:
            context.abort(refusal.code, str(refusal))
        values = {"result": json.dumps(body).encode(), "mask_png": mask}
        response = messages.ModelInferResponse(model_name="segment")
        for wanted in request.outputs:
            response.outputs.add(name=wanted.name, datatype="BYTES", shape=[1])
            value = values[wanted.name]
            response.raw_output_contents.append(struct.pack("<I", len(value)) + value)
        return response

    def ModelStreamInfer(
        self, requests: Iterator[messages.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[messages.ModelStreamInferResponse]:
        for request in requests:
            self.received.append(request)
            try:
                for event in self.tell(request):
                    value = json.dumps(event).encode()
                    response = messages.ModelInferResponse(model_name="segment_stream")
                    response.outputs.add(name="event", datatype="BYTES", shape=[1])
                    response.raw_output_contents.append(struct.pack("<I", len(value)) + value)
                    yield messages.ModelStreamInferResponse(infer_response=response)
            except Refusal as refusal:
                context.abort(refusal.code, str(refusal))

    def inputs(self, index: int = -1) -> dict[str, tuple[str, list[int], bytes]]:
        """The inputs of a received request: name → (datatype, shape, value without the length of a BYTES value)."""
        request = self.received[index]
        found = {}
        for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
            value = raw[4:] if tensor.datatype == "BYTES" else raw
            found[tensor.name] = (tensor.datatype, list(tensor.shape), value)
        return found


@contextmanager
def serving(
    reply: Reply = answer, port: int = 0, credentials: grpc.ServerCredentials | None = None
) -> Iterator[Peer]:
    """A peer on a loopback port; with `credentials` under TLS, and then as `localhost`."""
    peer = Peer(reply)
    server = grpc.server(
        futures.ThreadPoolExecutor(8),
        options=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
    )
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(peer, server)
    if credentials is None:
        peer.address = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}"
    else:
        peer.address = f"grpcs://localhost:{server.add_secure_port(f'127.0.0.1:{port}', credentials)}"
    server.start()
    try:
        yield peer
    finally:
        server.stop(grace=None).wait()
