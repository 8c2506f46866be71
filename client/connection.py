"""Where the server is, and how the channel to it is set up."""

from __future__ import annotations

import re
from dataclasses import dataclass

DEFAULT_PORT = 8001  # Triton's gRPC port

# gRPC's limit, INT32_MAX. Its default for answers is 4 MB, which an exact polygon set or a mask may pass.
_MAX_MESSAGE = 2**31 - 1

_CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    # gRPC waits longer and longer, up to two minutes, before it tries a lost server again; a restarted one is
    # back in seconds. (Not min_reconnect_backoff_ms: that is what an attempt to connect may take.)
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
]

_URL = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<host>\[[0-9a-f:.%]+\]|[^\s/:\[\]?#@]+)(?::(?P<port>\d{1,5}))?/?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Address:
    """A gRPC target `host:port`, and whether the channel is encrypted."""

    target: str
    tls: bool = False

    @property
    def channel_options(self) -> list[tuple[str, int]]:
        """gRPC's channel arguments. To this machine, no proxy of the environment is used: none leads back here."""
        host = self.target.rpartition(":")[0].strip("[]").lower()
        local = host in ("localhost", "::1") or host.startswith("127.")
        return [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", 0)] if local else list(_CHANNEL_OPTIONS)

    def __str__(self) -> str:
        return f"{'grpcs' if self.tls else 'grpc'}://{self.target}"


def parse_address(url: str) -> Address:
    """Read `grpc://host:8001`, `grpcs://host:443` (TLS), `host:8001` or `host`.

    Raises:
        ValueError: it is none of these.
    """
    parts = _URL.fullmatch(url.strip())
    if parts is None:
        raise ValueError(f"{url!r} is no server address; write grpc://host:{DEFAULT_PORT}")
    scheme = (parts["scheme"] or "grpc").lower()
    if scheme not in ("grpc", "grpcs"):
        raise ValueError(
            f"{url!r}: this client speaks gRPC, not {scheme}; write grpc://{parts['host']}:{DEFAULT_PORT}"
            " (the port of Triton's gRPC endpoint), or grpcs:// for TLS"
        )
    port = int(parts["port"] or DEFAULT_PORT)
    if not 0 < port < 65536:
        raise ValueError(f"{url!r}: there is no port {port}")
    return Address(f"{parts['host']}:{port}", tls=scheme == "grpcs")
