"""Where the servers are, and how the channel to them is set up."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from florence2_sam2.client import attempts

DEFAULT_PORT = 8001  # Triton's gRPC port

# gRPC's limit, INT32_MAX. Its default for answers is 4 MB, which an exact polygon set or a mask may pass.
_MAX_MESSAGE = 2**31 - 1

_CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", _MAX_MESSAGE),
    ("grpc.max_receive_message_length", _MAX_MESSAGE),
    # gRPC waits longer and longer, up to two minutes, before it tries a lost server again; a restarted one is
    # back in seconds. (Not min_reconnect_backoff_ms: that is what an attempt to connect may take.)
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Calls go to the servers in turn, past those that are lost.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
]

_URL = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*)://)?(?P<host>\[[0-9a-f:.%]+\]|[^\s/:\[\]?#@]+)(?::(?P<port>\d{1,5}))?/?",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Address:
    """One gRPC server or more, each `host:port`, and whether the channel is encrypted."""

    hosts: tuple[str, ...]
    tls: bool = False

    @property
    def target(self) -> str:
        """gRPC's target. One name is gRPC's to look up, again when it loses a server; several are looked up here.

        Raises:
            ValueError: one of several names is not known.
        """
        return self.hosts[0] if len(self.hosts) == 1 else _looked_up(self.hosts)

    def channel_options(self) -> list[tuple[str, int | str]]:
        """gRPC's channel arguments. To this machine, no proxy of the environment is used: none leads back here."""
        options: list[tuple[str, int | str]] = [*_CHANNEL_OPTIONS]
        if all(map(_is_local, self.hosts)):
            options.append(("grpc.enable_http_proxy", 0))
        return options

    def __str__(self) -> str:
        scheme = "grpcs" if self.tls else "grpc"
        return ", ".join(f"{scheme}://{host}" for host in self.hosts)


def parse_address(urls: str | Sequence[str]) -> Address:
    """Read `grpc://host:8001`, `grpcs://host:443` (TLS), `host:8001` or `host`, or several of them.

    Raises:
        ValueError: one is none of these, there is none, or there are several with TLS.
    """
    if isinstance(urls, str):
        host, tls = _parse_one(urls)
        return Address((host,), tls)
    parsed = [_parse_one(url) for url in urls]
    if not parsed:
        raise ValueError("no server address: at least one is needed")
    if len(parsed) > 1 and any(tls for _, tls in parsed):
        raise ValueError(
            "with TLS only one address is taken, a certificate being for one name; calls go round all servers that the"
            " name stands for"
        )
    return Address(tuple(dict.fromkeys(host for host, _ in parsed)), parsed[0][1])


def _parse_one(url: str) -> tuple[str, bool]:
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
    return f"{parts['host']}:{port}", scheme == "grpcs"


def _is_local(host: str) -> bool:
    name = host.rpartition(":")[0].strip("[]").lower()
    return name in ("localhost", "::1") or name.startswith("127.")


def _looked_up(hosts: Sequence[str]) -> str:
    """The addresses of several names as one target; of one family, as gRPC wants them: IPv4 where every name has it."""
    found: dict[socket.AddressFamily, list[str]] = {socket.AF_INET: [], socket.AF_INET6: []}
    missing: set[socket.AddressFamily] = set()
    for host in hosts:
        name, _, port = host.rpartition(":")
        try:
            answers = socket.getaddrinfo(name.strip("[]"), int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            raise ValueError(f"{host}: the name is not known ({error.strerror or error})") from None
        for family, addresses in found.items():
            own = [str(where[0]) for kind, _, _, _, where in answers if kind == family]
            if not own:
                missing.add(family)
            addresses += [f"{ip}:{port}" if family == socket.AF_INET else f"[{ip}]:{port}" for ip in own]
    for family, scheme in ((socket.AF_INET, "ipv4"), (socket.AF_INET6, "ipv6")):
        if family not in missing:
            return f"{scheme}:{','.join(dict.fromkeys(found[family]))}"
    raise ValueError(
        f"{', '.join(hosts)}: some have IPv4 addresses only and some IPv6, which gRPC does not mix"
    )


@dataclass(frozen=True)
class Options:
    """How a client talks to its servers, beyond where they are."""

    retries: int = attempts.RETRIES
    reconnect: float = attempts.RECONNECT_SECONDS
    headers: Mapping[str, str] | None = None
    api_key: str | None = None
    root_certificates: str | os.PathLike[str] | None = None
    private_key: str | os.PathLike[str] | None = None
    certificate_chain: str | os.PathLike[str] | None = None

    def metadata(self) -> dict[str, str]:
        """gRPC's metadata of each call.

        Raises:
            ValueError: a header that gRPC does not take.
        """
        found = {name.lower(): value for name, value in (self.headers or {}).items()}
        if self.api_key is not None:
            found["authorization"] = f"Bearer {self.api_key}"
        for name, value in found.items():
            if not re.fullmatch(r"[0-9a-z_.-]+", name) or name.startswith("grpc-") or name.endswith("-bin"):
                raise ValueError(f"headers: {name!r} is no name of a header")
            if not re.fullmatch(r"[ -~]*", value):
                raise ValueError(f"headers: the value of {name!r} has characters other than printable ASCII")
        return found

    def arguments(self, address: Address) -> dict[str, Any]:
        """What tritonclient's InferenceServerClient takes.

        Raises:
            ValueError: `retries` or `reconnect` out of range, certificates without TLS, or an unknown name among
                several servers.
            OSError: a certificate's file cannot be read.
        """
        if not 0 <= self.retries <= attempts.MAX_RETRIES:
            raise ValueError(f"retries: {self.retries}, from 0 to {attempts.MAX_RETRIES} are possible")
        if not self.reconnect >= 0:
            raise ValueError(f"reconnect: {self.reconnect}, seconds from 0 on are possible")
        files = {
            "root_certificates": self.root_certificates,
            "private_key": self.private_key,
            "certificate_chain": self.certificate_chain,
        }
        given = {name: os.fspath(path) for name, path in files.items() if path is not None}
        if given and not address.tls:
            raise ValueError(
                f"{', '.join(given)}: the address is not for TLS, write grpcs://{address.hosts[0]}"
            )
        if ("private_key" in given) != ("certificate_chain" in given):
            raise ValueError("private_key and certificate_chain go together")
        for path in given.values():
            with open(path, "rb"):
                pass
        return {
            "url": address.target,
            "ssl": address.tls,
            "channel_args": address.channel_options(),
            **given,
        }
