"""Health, metadata, statistics and inference are open; what changes or reveals the server needs its key."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

import pytest
import tritonclient.grpc as grpc
from tritonclient.utils import InferenceServerException

from florence2_sam2.server.launch.command import ADMIN_HEADER, GRPC_HEADER_PREFIX
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server


def http(server: EmbeddedServer, path: str, headers: dict[str, str] | None = None, post: bool = False) -> int:
    request = urllib.request.Request(
        f"http://{server.http_address}{path}", headers=headers or {}, data=b"{}" if post else None
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/segment", "/v2/models/segment/stats"]
)
def test_open_over_http(server: EmbeddedServer, path: str) -> None:
    assert http(server, path) == 200


@pytest.mark.parametrize(
    ("path", "post"),
    [
        ("/v2/models/segment/config", False),
        ("/v2/repository/index", True),
        ("/v2/repository/models/segment/unload", True),
        ("/v2/systemsharedmemory/status", False),
        ("/v2/cudasharedmemory/status", False),
        ("/v2/trace/setting", False),
        ("/v2/logging", False),
    ],
)
def test_closed_over_http(server: EmbeddedServer, path: str, post: bool) -> None:
    assert http(server, path, post=post) == 403
    assert http(server, path, {ADMIN_HEADER: "wrong"}, post) == 403


def test_the_key_opens_it_over_http(server: EmbeddedServer) -> None:
    assert http(server, "/v2/models/segment/config", server.admin_headers) == 200


def test_closed_over_grpc_without_the_key(server: EmbeddedServer) -> None:
    client = grpc.InferenceServerClient(server.grpc_address)
    calls = (
        lambda headers: client.get_model_config("segment", headers=headers),
        lambda headers: client.get_model_repository_index(headers=headers),
        lambda headers: client.get_system_shared_memory_status(headers=headers),
        lambda headers: client.get_trace_settings(headers=headers),
        lambda headers: client.get_log_settings(headers=headers),
    )
    try:
        for call in calls:
            with pytest.raises(InferenceServerException, match="protocol is restricted"):
                call({})
            assert call({GRPC_HEADER_PREFIX + ADMIN_HEADER: server.admin_key}) is not None
        with pytest.raises(InferenceServerException, match="protocol is restricted"):
            client.unload_model("segment")
        assert client.is_model_ready("segment")
    finally:
        client.close()


def test_metrics_are_there(server: EmbeddedServer) -> None:
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=10) as answer:
        assert b'nv_inference_request_success{model="segment"' in answer.read()


def test_the_log_names_the_version(server: EmbeddedServer) -> None:
    with urllib.request.urlopen(f"http://{server.http_address}/v2", timeout=10) as answer:
        assert json.load(answer)["version"] == "2.51.0"
