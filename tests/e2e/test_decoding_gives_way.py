"""In a real server the decoder's threads are nicer than the encoders'."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from drawn import segment

from bench.fullsize.serving import descendants
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

pytestmark = pytest.mark.server


def niceness(server: EmbeddedServer, model: str) -> set[int]:
    """Of the threads of a model's process that have worked or wait for work."""
    found = set()
    for pid in descendants(os.getpid()):
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        if any(f"/{model}/" in argument for argument in arguments):
            found |= {os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir(f"/proc/{pid}/task")}
    return found


def test_decoding_gives_way_to_the_encoders(server: EmbeddedServer) -> None:
    segment(server)
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert niceness(server, "florence2_vision_encoder") == {own}
    assert niceness(server, "florence2") == {own, own + Settings().decoder_niceness}
