"""With `fetch="client"` a picture's URL is fetched on the client's side, by the server's rules."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
from collections.abc import Callable
from typing import Any

import pytest
from client_fetches import AWAITED, allowing, refusal, segment, silence
from kserve_peer import serving
from PIL import Image
from url_servers import BODY, LOOPBACK_SPELLINGS, PUBLIC, Handler, Server, answer, names, redirect, sends

from florence2_sam2.client import AsyncSegmenter, Done, InvalidRequest, Segmentation, Segmenter, UrlRules


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tests' names are known to the system; gives those that it was asked for."""
    asked: list[str] = []

    def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        return [(0, 0, 0, "", (address, port)) for address in names(host, port)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


@AWAITED
def test_what_is_sent_is_the_picture_itself(awaited: bool, serve: Callable[..., Server]) -> None:
    web = serve(sends(answer()))
    with serving() as peer:
        result = segment(peer, web.url(), allowing(web), awaited, area_threshold=1)
        assert peer.inputs()["image"][2] == BODY
        assert peer.inputs().keys() == {"image", "area_threshold", "options"}
    assert result.picture == BODY
    assert web.connections == 1


def test_urls_go_to_the_server_unless_told_otherwise(
    serve: Callable[..., Server], connects: list[Any]
) -> None:
    web = serve(sends(answer()))
    url = web.url()
    with serving() as peer, Segmenter(peer.address, url_rules=allowing(web)) as client:
        client.segment(url)
        assert peer.inputs()["image_url"][2] == url.encode()
        assert connects == []
        client.segment(url, fetch="client")
        assert peer.inputs()["image"][2] == BODY
        with Segmenter(peer.address, fetch="client") as other:
            other.segment(url, fetch="server")
        assert "image" not in peer.inputs()
        assert web.connections == 1


def test_data_urls_are_read_here_too() -> None:
    url = "data:image/png;base64," + base64.b64encode(BODY).decode()
    with serving() as peer:
        assert segment(peer, url, UrlRules()).picture == BODY
        assert peer.inputs()["image"][2] == BODY
    assert "no base64" in refusal("data:image/png;base64,%%%", UrlRules())
    assert "more than 1000 bytes" in refusal(url, UrlRules(max_bytes=1000))


def test_the_picture_can_be_drawn_on(serve: Callable[..., Server]) -> None:
    file = io.BytesIO()
    Image.new("RGB", (12, 8), "grey").save(file, "PNG")
    web = serve(sends(answer(file.getvalue())))
    with serving() as peer:
        result = segment(peer, web.url(), allowing(web))
    assert result.overlay().size == (12, 8)
    assert result.cutout(0).mode == "RGBA"


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS)
def test_a_refused_host_sees_no_connection(
    host: str, serve: Callable[..., Server], connects: list[Any], resolved: list[str]
) -> None:
    web = serve(sends(answer()))
    for url in (f"http://{host}:{web.port}/", f"http://{host}/"):
        refusal(url, UrlRules(ports=(80, web.port)))
    assert connects == []
    assert web.connections == 0


@AWAITED
def test_other_ports_see_no_connection(awaited: bool, connects: list[Any], resolved: list[str]) -> None:
    message = refusal("http://public.test:22/", UrlRules(), awaited)
    assert message == "image: the URL cannot be fetched here: port 22 is not allowed; use one of 80, 443"
    assert connects == []


def test_the_connection_goes_to_the_address_that_was_checked(
    connects: list[Any], resolved: list[str]
) -> None:
    assert "cannot connect to public.test" in refusal("http://public.test/", UrlRules())
    assert connects == [(PUBLIC, 80)]
    assert resolved == ["public.test"]


@pytest.mark.parametrize(
    "location", ["http://127.0.0.1:{port}/", "http://inside.test:{port}/", "file:///etc/passwd"]
)
def test_redirects_are_checked_anew(
    location: str, serve: Callable[..., Server], connects: list[Any], resolved: list[str]
) -> None:
    inside = serve(sends(answer()))
    web = serve(sends(redirect(location.format(port=inside.port))))
    message = refusal(web.url(), allowing(web, ports=(80, inside.port)))
    assert "redirects to another URL" in message
    assert inside.connections == 0
    assert connects == [("127.0.0.1", web.port)]


def test_no_proxy_of_the_environment_is_used(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, web = serve(sends(answer(b"proxy"))), serve(sends(answer()))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url("/"))
    with serving() as peer:
        assert segment(peer, web.url(), allowing(web)).picture == BODY
    assert proxy.connections == 0


@AWAITED
@pytest.mark.parametrize(
    ("handle", "rules", "words"),
    [
        (sends(answer(b"", "404 You will not see this")), {}, "the server answered 404 Not Found"),
        (sends(answer(b"<html>", Content_Type="text/html")), {}, "address of a web page"),
        (sends(answer()), {"max_bytes": 1000}, "the picture has more than 1000 bytes"),
        (sends(redirect("/again")), {"max_redirects": 1}, "redirects more than 1 times"),
        (silence, {"total_seconds": 0.3}, "did not send the picture within 0.3 s"),
        (sends(b"SSH-2.0-OpenSSH_9.2\r\n"), {}, "does not speak HTTP"),
    ],
)
def test_what_is_no_picture_is_said_as_the_sdk_does(
    handle: Handler, rules: dict[str, Any], words: str, awaited: bool, serve: Callable[..., Server]
) -> None:
    web = serve(handle)
    message = refusal(web.url(), allowing(web, **rules), awaited)
    assert message.startswith("image: the URL cannot be fetched here: ")
    assert words in message
    assert "You will not" not in message


@AWAITED
def test_of_many_pictures_each_has_its_own_failure(awaited: bool, serve: Callable[..., Server]) -> None:
    good, missing = serve(sends(answer())), serve(sends(answer(b"", "404 Not Found")))
    pictures = [good.url(), missing.url(), "http://127.0.0.1:1/", b"picture", "no/such/file.png", good.url()]
    rules = allowing(good, missing)

    def check(done: list[Done[Any, Segmentation]]) -> None:
        kinds = [type(one.error) for one in done]
        fine = type(None)
        assert kinds == [fine, InvalidRequest, InvalidRequest, fine, FileNotFoundError, fine]

    async def each(address: str) -> list[Done[Any, Segmentation]]:
        async with AsyncSegmenter(address, url_rules=rules) as client:
            return await client.segment_all(pictures, fetch="client")

    with serving() as peer:
        if awaited:
            check(asyncio.run(each(peer.address)))
        else:
            with Segmenter(peer.address, url_rules=rules) as client:
                check(client.segment_all(pictures, fetch="client"))
        assert len(peer.received) == 3
    assert (good.connections, missing.connections) == (2, 1)


def test_only_server_and_client_fetch() -> None:
    for kind in (Segmenter, AsyncSegmenter):
        with pytest.raises(ValueError, match="fetch: 'browser' is neither 'server' nor 'client'"):
            kind("127.0.0.1:1", fetch="browser")  # type: ignore[arg-type]
    with Segmenter("127.0.0.1:1") as client:
        for call in (client.segment, client.segment_each, client.stream, client.florence2):
            with pytest.raises(ValueError, match="fetch: '' is neither"):
                call(["a.png"], fetch="")  # type: ignore[operator]


@pytest.mark.parametrize("model", ["florence2", "sam2"])
def test_models_that_fetch_nothing_say_who_can(model: str, connects: list[Any]) -> None:
    with Segmenter("127.0.0.1:1") as client:
        call: Any = client.florence2 if model == "florence2" else client.sam2
        arguments = ["<OD>"] if model == "florence2" else [[[0, 0, 1, 1]]]
        with pytest.raises(ValueError, match='fetch="client"'):
            call("http://127.0.0.1:1/a.png", *arguments)
    assert connects == []
