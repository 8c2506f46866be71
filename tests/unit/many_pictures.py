"""Pictures for the tests of `florence2-sam2 segment` over many of them, and what reads its files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
from kserve_peer import ANSWER, Refusal

# Runs the command against a peer, with these arguments: exit code, standard output, standard error.
Run = Callable[..., tuple[int, str, str]]
NAMES = ("a.png", "b.jpg", "deep/c.webp", "deep/d.PNG")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def failing(names: set[bytes]) -> Callable[[Any], tuple[dict[str, Any], bytes]]:
    def reply(request: Any) -> tuple[dict[str, Any], bytes]:
        if request.raw_input_contents[0][4:] in names:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "image: is no picture")
        return ANSWER, b""

    return reply
