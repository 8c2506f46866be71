"""Send the messages, some at once, and hold each answer and the server against what is promised."""

from __future__ import annotations

import re
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from bench.fuzz.messages import Message, Messages

AT_ONCE = 8
DEADLINE_SECONDS = 60.0
# What may be answered. Everything else, INTERNAL first of all, is a fault.
ALLOWED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "UNIMPLEMENTED"}
# What no message may show: a path, a traceback, the name of a region of shared memory.
SHOWN = re.compile(
    r"Traceback|File \"|\.py\b|/(tmp|usr|root|home|work|dev|proc|etc)/|/dev/shm|site-packages|0x[0-9a-f]{8}"
)


@dataclass
class Outcome:
    """What came back. `faults`: in words, with the message's number."""

    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0


def run(address: str, seed: int, count: int, pictures: list[bytes], say: Any = lambda text: None) -> Outcome:
    """Send `count` messages to the server at `address`."""
    messages = Messages(seed, pictures)
    outcome = Outcome()
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def send(message: Message) -> tuple[str, str, float]:
        began = time.monotonic()
        try:
            stub.ModelInfer(message.request, timeout=DEADLINE_SECONDS)
            code, details = "OK", ""
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
        return code, details, time.monotonic() - began

    with channel, ThreadPoolExecutor(AT_ONCE) as pool:
        for first in range(0, count, 100):
            batch = [messages.next() for _ in range(min(100, count - first))]
            for number, (message, answer) in enumerate(zip(batch, pool.map(send, batch), strict=True), first):
                _judge(outcome, number, message, *answer)
            say(f"{first + len(batch)} of {count}: {dict(outcome.codes)}, {len(outcome.faults)} faults")
    return outcome


def _judge(outcome: Outcome, number: int, message: Message, code: str, details: str, seconds: float) -> None:
    outcome.codes[code] += 1
    outcome.slowest = max(outcome.slowest, seconds)
    # What the caller has written itself may come back to it.
    told = details
    for shown in _own_texts(message.request):
        told = told.replace(shown, "")
    if code not in ALLOWED:
        outcome.faults.append(f"message {number} ({message.told}): {code}: {details[:300]}")
    elif SHOWN.search(told):
        outcome.faults.append(f"message {number} ({message.told}) shows too much: {details[:300]}")
    elif code != "OK" and not details.strip():
        outcome.faults.append(f"message {number} ({message.told}): {code} without a word")


def _own_texts(request: pb.ModelInferRequest) -> list[str]:
    names = [tensor.name for tensor in request.inputs] + [output.name for output in request.outputs]
    values = [p.string_param for tensor in request.inputs for p in tensor.parameters.values()]
    return [shown for shown in (*names, *values) if len(shown) > 3]
