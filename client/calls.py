"""What `Segmenter` and `AsyncSegmenter` have in common: how they are made, time limits, and answers understood."""

from __future__ import annotations

import enum
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, TypeVar, get_args

from florence2_sam2.client import attempts, connection, errors, images
from florence2_sam2.client.results import Segmentation
from florence2_sam2.urls.rules import UrlRules

T = TypeVar("T")
Path: TypeAlias = str | os.PathLike[str]

POLL_SECONDS = 0.2


class ClientDefault(enum.Enum):
    CLIENT_DEFAULT = "the client's"


CLIENT_DEFAULT: Final = ClientDefault.CLIENT_DEFAULT
Timeout: TypeAlias = float | ClientDefault | None
Fetch: TypeAlias = Literal["server", "client"]


class Caller:
    """Where the servers are and how they are talked to.

    Args:
        url: `grpc://host:8001`, `grpcs://host` for TLS, or plain `host:8001`. Nothing is connected to yet. Calls go in
            turn to all servers that the name stands for, or to those of a list of addresses, past those that are lost.
        timeout: seconds that a call may take, its retries included; None: no limit.
        retries: how often a request is sent again, after a moment, 0 to 4: when the server is full, or was lost with
            the request under way. Other failures would come again. A call changes nothing on a server.
        reconnect: seconds that a server which has answered before may be away, or about to end, as it is while it is
            restarted: calls wait for it or for another one meanwhile, unless `retries` is 0.
        headers: gRPC metadata of each call, as a proxy before the server may ask for.
        api_key: short for the header `authorization: Bearer …`.
        root_certificates, private_key, certificate_chain: PEM files for TLS: the authorities that are trusted in place
            of the usual ones, and this client's own key and certificate where the server asks for them.
        fetch: who fetches a picture that is given as a URL: the server, under its own policy, or this client.
        url_rules: what this client may fetch then.

    Raises:
        ValueError: `url` is no address of a gRPC server, or an option is wrong.
        OSError: a certificate's file cannot be read.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout: float | None = 120.0,
        retries: int = attempts.RETRIES,
        reconnect: float = attempts.RECONNECT_SECONDS,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        root_certificates: Path | None = None,
        private_key: Path | None = None,
        certificate_chain: Path | None = None,
        fetch: Fetch = "server",
        url_rules: UrlRules | None = None,
    ) -> None:
        options = connection.Options(
            retries, reconnect, headers, api_key, root_certificates, private_key, certificate_chain
        )
        self.address = connection.parse_address(url)
        self.timeout = timeout
        self.url_rules = url_rules or UrlRules()
        self.fetch = _fetch(fetch)
        self._metadata = options.metadata()
        self._arguments = options.arguments(self.address)
        self._link = attempts.Link(retries, reconnect)
        self._open()

    def _open(self) -> None:
        """Make the channel, unless it has to wait for the first call."""

    def _fetching(self, fetch: Fetch | None, timeout: Timeout) -> images.Fetching | None:
        """How URLs are fetched here in a call that begins now; None: by the server.

        Raises:
            ValueError: `fetch` is neither.
        """
        if _fetch(self.fetch if fetch is None else fetch) == "server":
            return None
        limit = seconds(timeout, self.timeout)
        return images.Fetching(self.url_rules, None if limit is None else time.monotonic() + limit)


def _fetch(fetch: Fetch) -> Fetch:
    if fetch not in get_args(Fetch):
        raise ValueError(f"fetch: {fetch!r} is neither 'server' nor 'client'")
    return fetch


def seconds(timeout: Timeout, default: float | None) -> float | None:
    return default if isinstance(timeout, ClientDefault) else timeout


def not_ready(failure: Exception | None, address: str, timeout: float) -> Exception:
    if isinstance(failure, (errors.CannotConnect, errors.ModelNotFound)):
        return failure
    return errors.DeadlineExceeded(f"{address} was not ready to segment after {timeout:g} s")


def segmentation(answer: Any, picture: images.Encoded) -> Segmentation:
    body = json.loads(answer.as_numpy("result").item())
    mask = answer.as_numpy("mask_png")
    return Segmentation.from_json(body, b"" if mask is None else mask.item(), picture.data)


def understood(read: Callable[..., T], *arguments: Any) -> T:
    """`read(*arguments)`, of tritonclient's InferResult."""
    try:
        return read(*arguments)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.ServerError(
            f"the server's answer has another form than this client knows: {error!r}"
        ) from error
