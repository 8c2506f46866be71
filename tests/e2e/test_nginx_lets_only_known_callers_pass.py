"""The shipped nginx configuration before the real server: who passes, who does not, and that keys stay where they
are."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import proxy
import pytest
from calls import until
from drawn import SCENE, segment
from proxy import BEARER, CALLER, GENERATE, KEY, STREAM, TLS, WRONG_KEY, Proxy, Relay
from test_contract_over_http import BOX, ENCODED
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from florence2_sam2.cli.address import KEY_VARIABLE
from florence2_sam2.cli.main import main
from florence2_sam2.client import Segmentation, Segmenter, ServerError, ServerOverloaded
from florence2_sam2.server.launch.command import ADMIN_HEADER, GRPC_HEADER_PREFIX
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server

Place = tuple[Proxy, Relay, Relay]


@pytest.fixture(scope="module")
def place(server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with proxy.before(server, tmp_path_factory.mktemp("nginx")) as running:
        yield running


@pytest.fixture
def nginx(place: Place) -> Proxy:
    return place[0]


@pytest.fixture
def nothing_passes(place: Place) -> Iterator[None]:
    """No byte has reached the server when the test is over."""
    _, http, grpc_line = place
    before = http.received, len(http.heads), grpc_line.received, len(grpc_line.heads)
    yield
    assert (http.received, len(http.heads), grpc_line.received, len(grpc_line.heads)) == before


def timeless(result: Segmentation) -> dict[str, Any]:
    return result.to_dict() | {"timings_ms": 0, "request_id": 0}


def test_the_answer_is_the_servers(place: Place, server: EmbeddedServer) -> None:
    nginx, http, _ = place
    direct = timeless(segment(server))
    with nginx.segmenter() as client:
        client.wait_until_ready(10)
        assert timeless(client.segment(SCENE, formats=())) == direct
    for headers in (BEARER, {"x-api-key": KEY}, {"authorization": f"bearer {KEY}"}, {"x_api_key": KEY}):
        answer = nginx.segment(headers, image_base64=ENCODED)
        assert answer.status == 200
        assert timeless(Segmentation.from_json(json.loads(json.loads(answer.body)["result"]))) == direct
        assert KEY.encode() not in http.heads[-1]
    assert nginx.segment(image_base64="%").error.startswith("image_base64: ")  # the server's own words


NO_CALLERS: dict[str, dict[str, str]] = {
    "none": {},
    "unknown": {"Authorization": f"Bearer {WRONG_KEY}"},
    "unknown to a gateway": {"X-API-Key": WRONG_KEY},
    "longer": {"Authorization": f"Bearer {KEY}0"},
    "shorter": {"X-API-Key": KEY[:-1]},
    "empty": {"Authorization": "Bearer "},
    "empty to a gateway": {"X-API-Key": ""},
    "another scheme": {"Authorization": f"Basic {KEY}"},
    "no scheme": {"Authorization": KEY},
    "two headers": {"Authorization": f"Bearer {WRONG_KEY}", "X-API-Key": KEY},
    "a cookie": {"Cookie": f"x-api-key={KEY}"},
}


@pytest.mark.parametrize("headers", NO_CALLERS.values(), ids=NO_CALLERS)
@pytest.mark.parametrize("path", [GENERATE, STREAM])
@pytest.mark.usefixtures("nothing_passes")
def test_without_the_key_over_http(nginx: Proxy, path: str, headers: dict[str, str]) -> None:
    answer = nginx.ask("POST", path, b"{}", headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.error == (
        "the API key is missing or not known; send it as Authorization: Bearer KEY, or as X-API-Key: KEY"
    )


@pytest.mark.parametrize("options", [{"api_key": None}, {"api_key": WRONG_KEY}], ids=["none", "unknown"])
@pytest.mark.usefixtures("nothing_passes")
def test_without_the_key_over_grpc(nginx: Proxy, options: dict[str, Any]) -> None:
    def refused(call: Callable[[Segmenter], object]) -> None:
        with nginx.segmenter(**options) as client, pytest.raises(ServerError) as error:
            call(client)
        assert error.value.code == "UNAUTHENTICATED"
        assert error.value.message.startswith("the API key is missing or not known; send it as ")

    refused(lambda client: client.segment(SCENE))
    refused(lambda client: list(client.stream(SCENE)))
    refused(lambda client: client.sam2(SCENE, [[20, 20, 80, 80]]))
    refused(lambda client: client.segment(b"x" * 2**22))  # while it is still being sent


def test_the_header_of_a_gateway_works_over_grpc(nginx: Proxy) -> None:
    with nginx.segmenter(api_key=None, headers={"x-api-key": KEY}) as client:
        assert client.segment(SCENE, boxes=[]).objects == ()


def test_the_command_has_the_key_from_its_environment_or_a_file(
    nginx: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture, key = tmp_path / "scene.png", tmp_path / "key"
    picture.write_bytes(SCENE)
    key.write_text(f"{KEY}\n")
    command = ["segment", str(picture), "--url", nginx.grpc_url, "--boxes", "[]"]
    command += ["--root-certificates", str(TLS / "ca.pem")]
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert main(command) == 1
    assert "the API key is missing or not known" in capsys.readouterr().err
    assert main([*command, "--api-key-file", str(key)]) == 0
    assert main([*command, "--header", f"X-API-Key: {KEY}"]) == 0
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert main(command) == 0


ADMINISTRATION = [
    ("GET", "/v2/models/segment/config"),
    ("POST", "/v2/repository/index"),
    ("POST", "/v2/repository/models/segment/unload"),
    ("GET", "/v2/systemsharedmemory/status"),
    ("GET", "/v2/cudasharedmemory/status"),
    ("POST", "/v2/systemsharedmemory/region/x/register"),
    ("GET", "/v2/trace/setting"),
    ("POST", "/v2/logging"),
    ("GET", "/v2"),
    ("GET", "/v2/models/segment"),
    ("GET", "/v2/models/segment/stats"),
    ("POST", "/v2/models/segment/infer"),
    ("POST", "/v2/models/segment/generate"),
    ("POST", "/v2/models/segment_http/versions/1/generate"),
    ("GET", "/metrics"),
    ("GET", "/nginx.html"),
    ("GET", "/florence2-sam2-error"),
    ("POST", f"{GENERATE}/../../../repository/index"),
    ("POST", f"{GENERATE}%2f..%2f..%2frepository%2findex"),
    ("POST", "//v2//repository//index"),
]


@pytest.mark.parametrize("keys", [{}, BEARER], ids=["no key", "key"])
@pytest.mark.parametrize(("method", "path"), ADMINISTRATION)
@pytest.mark.usefixtures("nothing_passes")
def test_administration_is_not_there_over_http(
    nginx: Proxy, server: EmbeddedServer, method: str, path: str, keys: dict[str, str]
) -> None:
    body = b"{}" if method == "POST" else None
    answer = nginx.ask(method, path, body, {**keys, **server.admin_headers})
    assert answer.status == 404
    assert answer.error.startswith("there is nothing at this path")


@pytest.mark.usefixtures("nothing_passes")
def test_administration_is_not_there_over_grpc(nginx: Proxy, server: EmbeddedServer) -> None:
    keys = {"authorization": f"Bearer {KEY}", GRPC_HEADER_PREFIX + ADMIN_HEADER: server.admin_key}
    with nginx.triton() as client:
        calls: list[Callable[[], object]] = [
            lambda: client.get_model_config("segment", headers=keys),
            lambda: client.get_model_repository_index(headers=keys),
            lambda: client.unload_model("segment", headers=keys),
            lambda: client.get_system_shared_memory_status(headers=keys),
            lambda: client.register_system_shared_memory("x", "/x", 1, headers=keys),
            lambda: client.get_trace_settings(headers=keys),
            lambda: client.get_log_settings(headers=keys),
            lambda: client.get_inference_statistics(headers=keys),
            lambda: client.get_server_metadata(headers=keys),
        ]
        for call in calls:
            with pytest.raises(InferenceServerException) as error:
                call()
            assert error.value.status() == "StatusCode.UNIMPLEMENTED"
            assert error.value.message() == "this call is not offered here"


@pytest.mark.parametrize(
    "path",
    [
        f"/v2/repository/index/../../models/segment_http/generate?{KEY}",
        f"{GENERATE}?x=/v2/repository/index",
        f"/%76{GENERATE[2:]}",
        f"/{GENERATE}#",
    ],
)
def test_the_server_sees_no_path_but_those_that_are_offered(place: Place, path: str) -> None:
    nginx, http, _ = place
    answer = nginx.ask("POST", path, json.dumps({"image_base64": ENCODED, "options": BOX}), BEARER)
    assert answer.status == 200
    assert http.heads[-1].startswith(f"POST {GENERATE} HTTP/1.1\r\n".encode())


@pytest.mark.usefixtures("nothing_passes")
def test_calls_are_posted_and_health_is_got(nginx: Proxy) -> None:
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert nginx.ask("POST", path, b"{}").status == 405
    for path in (GENERATE, STREAM):
        answer = nginx.ask("GET", path, headers=BEARER)
        assert (answer.status, answer.error[:32]) == (405, "this path takes another method: ")


def test_health_is_the_servers(place: Place) -> None:
    nginx, http, _ = place
    for path in ("/v2/health/live", "/v2/health/ready"):
        assert nginx.ask("GET", f"{path}?x", headers=BEARER).status == 200
        assert http.heads[-1].startswith(f"GET {path} HTTP/1.1\r\n".encode())
        assert KEY.encode() not in http.heads[-1]


@pytest.mark.usefixtures("nothing_passes")
def test_what_would_have_to_be_unpacked_is_refused(nginx: Proxy) -> None:
    answer = nginx.ask("POST", GENERATE, b"{}", {**BEARER, "Content-Encoding": "gzip"})
    assert (answer.status, answer.error) == (415, "compressed requests are not taken; send the JSON as it is")
    keys = {"authorization": f"Bearer {KEY}"}
    with nginx.triton() as client, pytest.raises(InferenceServerException) as error:
        client.infer("segment", [], headers=keys, compression_algorithm="gzip")
    assert error.value.status() == "StatusCode.UNIMPLEMENTED"
    assert "compressed requests are not taken" in error.value.message()


def test_the_key_is_not_handed_on_over_grpc(nginx: Proxy, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Seen by a gRPC server that notes its callers' headers: on the line itself they are packed."""
    seen: list[dict[str, str | bytes]] = []

    class Noting(service_pb2_grpc.GRPCInferenceServiceServicer):
        def ServerReady(self, request: Any, context: Any) -> Any:
            seen.append(dict(context.invocation_metadata()))
            return service_pb2.ServerReadyResponse(ready=True)

    noting = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Noting(), noting)
    address = f"127.0.0.1:{noting.add_insecure_port('127.0.0.1:0')}"
    noting.start()
    try:
        with proxy.running(tmp_path_factory.mktemp("noting"), ["127.0.0.1:9"], [address]) as own:
            for name, value in (("authorization", f"Bearer {KEY}"), ("x-api-key", KEY), ("x_api_key", KEY)):
                with own.triton() as client:
                    assert client.is_server_ready(headers={name: value, "triton_grpc_error": "true"})
    finally:
        noting.stop(grace=None).wait()
    assert len(seen) == 3
    for headers in seen:
        assert headers["triton_grpc_error"] == "true"
        assert KEY not in str(headers)


def test_who_asks_too_often_is_told_so(
    server: EmbeddedServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    enough = threading.Event()
    answers: set[tuple[int, bytes]] = set()

    def ask_and_ask() -> None:
        with contextlib.closing(nginx.connect()) as connection:
            while not enough.is_set():
                connection.request("GET", "/v2/health/live")
                response = connection.getresponse()
                answers.add((response.status, response.read()))

    with proxy.before(server, tmp_path_factory.mktemp("often")) as (nginx, _, _):
        asking = threading.Thread(target=ask_and_ask)
        asking.start()
        try:
            with nginx.segmenter(retries=0) as client, pytest.raises(ServerOverloaded) as refused:
                any(client.segment(SCENE, boxes=[]).objects for _ in range(1000))  # until it is refused
            assert until(lambda: len(answers) > 1, 20)
        finally:
            enough.set()
            asking.join(10)
    told = "too many requests from this address; try again later"
    assert refused.value.message == told
    assert answers == {(200, b""), (429, json.dumps({"error": told}).encode())}


def test_no_key_is_written_down(nginx: Proxy) -> None:
    """Neither by these calls nor by those of the tests above."""
    for key in (KEY, WRONG_KEY):
        headers = {"X-API-Key": key}
        for path in (GENERATE, f"{GENERATE}?api_key={key}", "/metrics"):
            nginx.ask("POST", path, b"{}", headers)
        nginx.ask("POST", GENERATE, b"{}", {**headers, "X-Note": "y" * 40_000})
        with nginx.segmenter(api_key=key) as client, contextlib.suppress(ServerError):
            client.segment(SCENE, boxes=[])

    def told() -> set[tuple[str, str, int, str]]:
        return {
            tuple(line[name] for name in ("caller", "path", "status", "grpc_status"))
            for line in nginx.access_log
        }

    infer = "/inference.GRPCInferenceService/ModelInfer"
    expected = {
        (CALLER, GENERATE, 400, ""),
        ("", GENERATE, 401, ""),
        (CALLER, "/metrics", 404, ""),
        ("", "/metrics", 404, ""),
        (CALLER, infer, 200, "0"),
        ("", infer, 200, "16"),
    }
    assert until(lambda: expected <= told(), 10), expected - told()
    assert KEY not in nginx.logs
    assert WRONG_KEY not in nginx.logs
