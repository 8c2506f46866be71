"""The short form of `scripts/fuzz`: random messages, well formed and not, to the real server."""

from __future__ import annotations

from collections import Counter

import pytest

from bench.fuzz.__main__ import fuzz, pictures
from bench.fuzz.messages import Messages
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server


def test_each_is_answered_and_the_server_is_as_before(server: EmbeddedServer) -> None:
    report = fuzz(server, seed=7, count=400)
    assert report.faults() == []
    assert report.outcome.codes["OK"] > 10
    assert report.outcome.codes["INVALID_ARGUMENT"] > 100


def test_the_same_seed_gives_the_same_messages() -> None:
    def made(seed: int) -> list[bytes]:
        messages = Messages(seed, pictures())
        return [messages.next().request.SerializeToString(deterministic=True) for _ in range(50)]

    assert made(1) == made(1) != made(2)


def test_messages_are_of_every_kind() -> None:
    messages = Messages(3, pictures())
    made = [messages.next() for _ in range(1500)]
    models = Counter(message.request.model_name for message in made)
    assert {"segment", "segment_http", "florence2", "sam2", "sam2_mask_decoder", "no_model"} <= set(models)
    changes = Counter(change for message in made for change in message.told.split(": ", 1)[1].split(", "))
    assert len(changes) == 15  # all of them, and "as it is"
    assert min(changes.values()) > 20
