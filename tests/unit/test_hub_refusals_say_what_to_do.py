"""Whatever the hub answers, the user reads one line that says what to do; the token goes to the hub alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import HubServer, running

from florence2_sam2.hub import client
from florence2_sam2.hub.client import Hub
from florence2_sam2.hub.download import fetch
from florence2_sam2.hub.errors import HubError, Unavailable
from florence2_sam2.hub.names import HubName, parse
from florence2_sam2.hub.store import Store

NAME = "organisation/checkpoint"
FILES: dict[str, bytes | Path] = {"config.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def server() -> Iterator[HubServer]:
    with running() as hub:
        hub.add(NAME, FILES)
        yield hub


def refusal(
    server: HubServer, name: str = NAME, revision: str = "main", token: str | None = None
) -> HubError:
    with pytest.raises(HubError) as caught:
        Hub(server.endpoint, token).resolve(HubName(name, revision))
    assert "\n" not in str(caught.value)
    return caught.value


def test_an_unknown_name(server: HubServer) -> None:
    error = refusal(server, "organisation/unknown")
    assert not isinstance(error, Unavailable)
    assert "has no organisation/unknown that is public (401)" in str(error)
    assert "check the spelling; for a private repository set HF_TOKEN" in str(error)


def test_an_unknown_revision(server: HubServer) -> None:
    assert f"{NAME} has no revision 'v9' (404)" in str(refusal(server, revision="v9"))


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        (
            401,
            {"X-Error-Message": "Invalid credentials in Authorization header"},
            "does not know this token (401)",
        ),
        (403, {}, "is gated (403): accept its terms at"),
        (404, {}, "check the spelling"),
        (418, {}, "refuses organisation/checkpoint@main (418"),
    ],
)
def test_refusals(server: HubServer, status: int, headers: dict[str, str], says: str) -> None:
    server.refuse = (status, headers)
    error = refusal(server, token="hf_wrong")
    assert not isinstance(error, Unavailable)
    assert says in str(error)


def test_a_rate_limit_names_the_time(server: HubServer) -> None:
    server.refuse = (429, {"Retry-After": "90"})
    error = refusal(server)
    assert isinstance(error, Unavailable)
    assert error.retry_after == 90
    assert "(429): try again in 90 s, or set HF_TOKEN: with an account the limit is higher" in str(error)
    server.refuse = (429, {})
    assert "try again in a few minutes" in str(refusal(server))
    assert "HF_TOKEN" not in str(refusal(server, token="hf_mine"))


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_a_fault_of_the_hub(server: HubServer, status: int) -> None:
    server.refuse = (status, {})
    error = refusal(server)
    assert isinstance(error, Unavailable)
    assert f"has a fault of its own ({status}): try again later" in str(error)


def test_no_connection(server: HubServer) -> None:
    server.stop()
    error = refusal(server)
    assert isinstance(error, Unavailable)
    assert str(error) == f"{server.endpoint} cannot be reached (Connection refused)"


def test_something_else_answers(server: HubServer) -> None:
    server.refuse = (200, {"Content-Type": "text/html"})
    assert "is no hub: check HF_ENDPOINT and the proxy" in str(refusal(server))


def test_offline_mode_asks_nobody(server: HubServer) -> None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        hub = Hub.from_environment({variable: "1", "HF_ENDPOINT": server.endpoint})
        with pytest.raises(Unavailable, match=f"^{variable} is set$"):
            hub.resolve(HubName(NAME))
    assert not server.requests


def test_a_gated_repository_needs_the_token_and_the_cdn_does_not_get_it(
    server: HubServer, tmp_path: Path
) -> None:
    server.repositories[NAME].gated = True
    server.token = "hf_good"
    store = Store(tmp_path, NAME)
    for token, status in ((None, 401), ("hf_other", 403)):
        with pytest.raises(HubError, match=rf"{NAME} is gated \({status}\): accept its terms at .*HF_TOKEN"):
            fetch(HubName(NAME), print, Hub(server.endpoint, token), store)
    fetch(HubName(NAME), print, Hub(server.endpoint, "hf_good"), store)
    at_cdn = [request for request in server.requests if request.path.startswith("/cdn/")]
    assert at_cdn
    assert not [request for request in at_cdn if request.authorization]


def test_the_hub_librarys_variables_are_read(tmp_path: Path) -> None:
    assert Hub.from_environment({"HF_HOME": str(tmp_path)}) == Hub(client.ENDPOINT)
    (tmp_path / "token").write_text("hf_file\n")
    assert Hub.from_environment({"HF_HOME": str(tmp_path)}).token == "hf_file"
    assert Hub.from_environment({"HF_HOME": str(tmp_path), "HF_TOKEN": "hf_mine"}).token == "hf_mine"
    assert (
        Hub.from_environment({"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}).token is None
    )
    assert (
        Hub.from_environment({"HF_ENDPOINT": "https://mirror.example/"}).endpoint == "https://mirror.example"
    )
    name = HubName("a/b")
    assert Store.of(name, {"HF_HOME": "/x"}).folder == Path("/x/hub/models--a--b")
    assert Store.of(name, {"HF_HOME": "/x", "HF_HUB_CACHE": "/y"}).folder == Path("/y/models--a--b")
    assert Store.of(name, {"XDG_CACHE_HOME": "/z"}).folder == Path("/z/huggingface/hub/models--a--b")


def test_proxies_are_used_but_not_for_this_machine(
    server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("http_proxy", server.endpoint)
    assert Hub("http://hub.invalid").resolve(HubName(NAME)) == server.repositories[NAME].revisions["main"]
    with running() as dead:
        monkeypatch.setenv("http_proxy", dead.endpoint)
    port = server.endpoint.rpartition(":")[2]
    for host in ("127.0.0.1", "localhost"):
        Hub(f"http://{host}:{port}").resolve(HubName(NAME))


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = "0123456789" * 4
    assert parse("a/b") == HubName("a/b", "main")
    assert parse("a/b-2.1@v1.0") == HubName("a/b-2.1", "v1.0")
    assert parse("a/b@refs/pr/3") == HubName("a/b", "refs/pr/3")
    assert HubName("a/b", commit).is_pinned
    assert not HubName("a/b", commit[:-1]).is_pinned
    assert str(HubName("a/b", commit)) == "a/b@012345678901"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert parse("a/b") == Path("a/b"), "a folder comes before the hub"
    for wrong in ("name", "a/b/c", "./a/c", "/a/b/c", "a/b@", "a/b@x y", "model.pt", ""):
        with pytest.raises(
            HubError, match="no such file or folder, and a name on the hub is ORGANISATION/NAME"
        ):
            parse(wrong) if wrong else parse("\n")
