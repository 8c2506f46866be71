"""Models are unloaded when those that may call them have finished; all at once where nothing is in flight."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from florence2_sam2.server.launch import drain as drained
from florence2_sam2.server.launch.connection import Connection, NoAnswer, Refused
from florence2_sam2.server.launch.drain import CALLERS, drain

MODELS = ["florence2", "sam2", "sam2_image_encoder", "segment", "segment_http", "segment_stream"]
LOOKS = 9  # so many looks at the models see one that is being unloaded


class Server(Connection):
    """Triton's administration. An ensemble is unloaded at once."""

    def __init__(self, in_flight: Mapping[str, int], silent: str = "") -> None:
        super().__init__("nowhere:0")
        self.in_flight, self.silent = in_flight, silent
        self.left = dict.fromkeys(MODELS, LOOKS)
        self.going: set[str] = set()
        self.unloaded: list[str] = []
        self.beside: dict[str, set[str]] = {}

    def post(self, path: str, body: Mapping[str, Any] | None = None, seconds: float = 5.0) -> Any:
        if path == "/v2/repository/index":
            return [{"name": name, "state": self._state(name)} for name in MODELS]
        model, what = path.split("/")[-2:]
        if what == "generate":
            if model == self.silent:
                raise NoAnswer("no answer within 2 s")
            return {CALLERS[model]: json.dumps({"in_flight": self.in_flight.get(model, 0)})}
        assert what == "unload"
        if model in self.going:
            raise Refused("asked twice")
        self.beside[model] = {name for name in MODELS if self._busy(name)} - {model}
        self.going.add(model)
        self.unloaded.append(model)
        return None

    def _busy(self, model: str) -> bool:
        return self.left[model] > 0

    def _state(self, model: str) -> str:
        if model not in self.going:
            return "READY"
        self.left[model] = 0 if model == "sam2" else self.left[model] - 1
        return "UNLOADING" if self._busy(model) else "UNAVAILABLE"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drained, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(drained, "PASS_SECONDS", 0.0)


def test_nothing_in_flight() -> None:
    server = Server({})
    assert drain(server, 5)
    assert sorted(server.unloaded) == MODELS
    assert server.unloaded[-1] == "sam2_image_encoder"
    assert server.beside["sam2_image_encoder"] == {"segment_stream", "segment_http", "segment", "florence2"}


@pytest.mark.parametrize("model", CALLERS)
def test_something_in_flight(model: str) -> None:
    server = Server({model: 1})
    assert drain(server, 5)
    assert sorted(server.unloaded) == MODELS
    assert server.beside["segment"] == {"florence2", "sam2", "sam2_image_encoder"}
    assert server.beside["florence2"] == {"sam2", "sam2_image_encoder"}
    assert server.beside["sam2_image_encoder"] == set()


@pytest.mark.parametrize(
    ("door", "next_one", "waited_for"),
    [
        ("segment_http", "segment", {"segment", "segment_http", "segment_stream"}),
        ("segment", "florence2", {"florence2", "segment"}),
    ],
)
def test_a_last_call_comes_through_a_door(door: str, next_one: str, waited_for: set[str]) -> None:
    """Nothing was in flight; but just before the door is shut somebody comes, and goes on to the next one."""

    class Late(Server):
        def post(self, path: str, body: Mapping[str, Any] | None = None, seconds: float = 5.0) -> Any:
            if path.endswith(f"/{door}/unload"):
                self.in_flight = {next_one: 1}
            return super().post(path, body, seconds)

    server = Late({})
    assert drain(server, 5)
    assert sorted(server.unloaded) == MODELS
    assert not server.beside["florence2"] & (waited_for - {"florence2"})
    assert not server.beside["sam2_image_encoder"] & waited_for


def test_whoever_says_nothing_may_be_at_work() -> None:
    server = Server({}, silent="florence2")
    assert drain(server, 5)
    assert server.beside["sam2_image_encoder"] == set()


def test_time_is_over() -> None:
    assert not drain(Server({"segment": 1}), -1)
