"""What `Segmenter` and `AsyncSegmenter` have in common: how they are made, time limits, and answers understood."""

from __future__ import annotations

import enum
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from florence2_sam2.client import connection, errors, images
from florence2_sam2.client.results import Segmentation

T = TypeVar("T")
Path: TypeAlias = str | os.PathLike[str]

POLL_SECONDS = 0.2


class ClientDefault(enum.Enum):
    CLIENT_DEFAULT = "the client's"


CLIENT_DEFAULT: Final = ClientDefault.CLIENT_DEFAULT
Timeout: TypeAlias = float | ClientDefault | None


class Caller:
    """Where the servers are and how they are talked to.

    Args:
        url: `grpc://host:8001`, `grpcs://host` for TLS, or plain `host:8001`. Nothing is connected to yet. Calls go in
            turn to all servers that the name stands for, or to those of a list of addresses, past those that are lost.
        timeout: seconds that a call may take, its retries included; None: no limit.
        retries: how often a call is tried again, after a moment, when a server is lost or full, 0 to 4. Nothing else
            is: a call changes nothing on a server, but other failures would come again.
        headers: gRPC metadata of each call, as a proxy before the server may ask for.
        api_key: short for the header `authorization: Bearer …`.
        root_certificates, private_key, certificate_chain: PEM files for TLS: the authorities that are trusted in place
            of the usual ones, and this client's own key and certificate where the server asks for them.

    Raises:
        ValueError: `url` is no address of a gRPC server, or an option is wrong.
        OSError: a certificate's file cannot be read.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        timeout: float | None = 120.0,
        retries: int = connection.RETRIES,
        headers: Mapping[str, str] | None = None,
        api_key: str | None = None,
        root_certificates: Path | None = None,
        private_key: Path | None = None,
        certificate_chain: Path | None = None,
    ) -> None:
        options = connection.Options(
            retries, headers, api_key, root_certificates, private_key, certificate_chain
        )
        self.address = connection.parse_address(url)
        self.timeout = timeout
        self._metadata = options.metadata()
        self._arguments = options.arguments(self.address)
        self._open()

    def _open(self) -> None:
        """Make the channel, unless it has to wait for the first call."""


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
