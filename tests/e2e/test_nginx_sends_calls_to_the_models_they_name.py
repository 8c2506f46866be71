"""Two versions side by side on real servers behind the shipped nginx: each call chooses, and its answer names them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import proxy
import pytest
from calls import until
from drawn import SCENE
from proxy import BEARER, Proxy
from test_contract_over_http import ENCODED

from bench.balance.nginx import MODELS_HEADER, Nginx, Servers
from bench.balance.servers import Fleet, places, start
from bench.balance.tuned import tuned
from florence2_sam2.client import Finished, InvalidRequest
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.manifest import packaged_repository, read_florence2, read_sam2

pytestmark = [pytest.mark.server, pytest.mark.timeout(240)]

NEXT = "florence2-next"
REFUSAL = "x-florence2-sam2-models: no models of that name are served here"
CANARY_CALLS, CANARY_PERCENT = 40, 50


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    packaged = packaged_repository()
    return {"": packaged, "next": tuned(packaged, tmp_path_factory.mktemp("tuned") / "repository", NEXT)}


@pytest.fixture(scope="module")
def usual(server: EmbeddedServer) -> Servers:
    return Servers([server.http_address], [server.grpc_address])


@pytest.fixture(scope="module")
def following(repositories: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with Fleet(tmp_path_factory.mktemp("fleet")) as fleet:
        start([fleet.add("next", repositories["next"])])
        yield places(fleet.servers)


@pytest.fixture(scope="module")
def nginx(usual: Servers, following: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    folder = tmp_path_factory.mktemp("nginx") / "nginx"
    with Nginx(proxy.find_nginx(), folder, usual, {"next": following}) as running:
        yield running


def identities(repository: Path) -> list[tuple[str, str, str]]:
    manifests = (read_florence2(repository), read_sam2(repository))
    return [(one.source.checkpoint, one.source.sha256, one.precision) for one in manifests]


def named(models: Any) -> list[tuple[str, str, str]]:
    return [
        (models[half]["checkpoint"], models[half]["sha256"], models[half]["precision"])
        for half in ("florence2", "sam2")
    ]


def by_call(nginx: Nginx, name: str | None) -> Any:
    with nginx.segmenter(name) as client:
        return client.segment(SCENE).models


def by_stream(nginx: Nginx, name: str | None) -> Any:
    with nginx.segmenter(name) as client:
        last = list(client.stream(SCENE))[-1]
    assert isinstance(last, Finished)
    return last.result.models


def over_http(nginx: Nginx, name: str | None) -> Any:
    headers = BEARER if name is None else {**BEARER, MODELS_HEADER: name}
    answer = Proxy(nginx.folder, nginx.port).segment(headers, image_base64=ENCODED)
    assert answer.status == 200, answer.body
    return json.loads(json.loads(answer.body)["result"])["models"]


@pytest.mark.parametrize("ask", [by_call, by_stream, over_http])
def test_the_answer_is_that_of_the_models_that_were_named(
    nginx: Nginx, repositories: dict[str, Path], ask: Callable[[Nginx, str | None], Any]
) -> None:
    packaged, tuned_ones = (identities(repository) for repository in repositories.values())
    assert tuned_ones[0][0] == NEXT
    assert tuned_ones[0][1] != packaged[0][1]
    for _ in range(2):
        assert named(ask(nginx, None)) == packaged
        assert named(ask(nginx, "next")) == tuned_ones


def refusals(nginx: Nginx) -> list[dict[str, Any]]:
    """What nginx has written down of calls to models that are not there."""
    lines = [json.loads(line) for line in nginx.logs.splitlines() if line.startswith('{"time"')]
    return [line for line in lines if line["models"] == "unknown"]


@pytest.mark.parametrize("name", ["nex", "NEXT2", "unknown", "_next", "../next"])
def test_models_that_are_not_there_are_a_mistake_of_the_caller(nginx: Nginx, name: str) -> None:
    before = len(refusals(nginx))
    with nginx.segmenter(name) as client:
        with pytest.raises(InvalidRequest, match=REFUSAL):
            client.segment(SCENE)
        with pytest.raises(InvalidRequest, match=REFUSAL):
            list(client.stream(SCENE))
    answer = Proxy(nginx.folder, nginx.port).segment({**BEARER, MODELS_HEADER: name}, image_base64=ENCODED)
    assert answer.status == 422
    assert answer.error.startswith(REFUSAL)
    # A line is written after its answer has been sent.
    assert until(lambda: len(refusals(nginx)) >= before + 3, 10), nginx.logs
    assert not any(line["server"] for line in refusals(nginx)), "a server was asked"


def test_who_has_no_key_learns_nothing_of_names(nginx: Nginx) -> None:
    asked = Proxy(nginx.folder, nginx.port)
    for name in ("next", "none"):
        assert asked.segment({MODELS_HEADER: name}, image_base64=ENCODED).status == 401


def test_a_share_of_the_calls_tries_the_next_models(nginx: Nginx, usual: Servers, following: Servers) -> None:
    nginx.reload(usual, {"next": following}, CANARY_PERCENT)
    try:
        with nginx.segmenter() as client:
            done = client.segment_all([SCENE] * CANARY_CALLS, boxes=[])
        answers = [one.unwrap().models["florence2"]["checkpoint"] for one in done]
        # Of 40 calls at 50 %, fewer than 6 or more than 34 happen once in a million times.
        assert 6 <= answers.count(NEXT) <= 34
        assert set(answers) == {NEXT, "florence2"}
        assert by_call(nginx, "next")["florence2"]["checkpoint"] == NEXT
    finally:
        nginx.reload(usual, {"next": following})
    with nginx.segmenter() as client:
        done = client.segment_all([SCENE] * 10, boxes=[])
    assert {one.unwrap().models["florence2"]["checkpoint"] for one in done} == {"florence2"}


@pytest.mark.parity
@pytest.mark.long
def test_precisions_side_by_side(exports: Callable[[str], Any], tmp_path: Path) -> None:
    half = exports("fp16").repository
    with Fleet(tmp_path / "fleet") as both:
        single, other = both.add("fp32"), both.add("fp16", half)
        start([single, other])
        with Nginx(
            proxy.find_nginx(), tmp_path / "nginx", places([single]), {"fp16": places([other])}
        ) as running:
            assert {row[2] for row in named(by_call(running, None))} == {"fp32"}
            assert named(by_call(running, "fp16")) == identities(half)
            assert {row[2] for row in named(by_call(running, "fp16"))} == {"fp16"}
