"""Where `serve` listens: each endpoint at its own address, so that none is open beyond this machine unless named."""

from __future__ import annotations

import argparse
import ipaddress
from pathlib import Path
from typing import Any

from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.tls import Tls

NAMES = {"grpc": "gRPC", "http": "HTTP", "metrics": "the metrics"}
TLS = {
    "tls_cert": "gRPC with TLS: the server's certificate, PEM",
    "tls_key": "the key of --tls-cert, PEM",
    "tls_client_ca": "authorities (PEM) whose certificates clients of gRPC must have",
}


def add_arguments(group: argparse._ArgumentGroup) -> None:
    for name, port in (("grpc", 8001), ("http", 8000), ("metrics", 8002)):
        group.add_argument(
            f"--{name}-port", type=_port, default=port, metavar="N", help="0 is any free one (%(default)s)"
        )
    for name in ("grpc", "http", "metrics"):
        group.add_argument(
            f"--{name}-host",
            default="127.0.0.1",
            metavar="ADDRESS",
            help=f"where {NAMES[name]} is listened for; 0.0.0.0: everywhere (%(default)s)",
        )
    for name, what in TLS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=Path, metavar="F", help=what)


def of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `EmbeddedServer` that say where it listens.

    Raises:
        StartError: a file of TLS is given without the others.
    """
    parts = [f"{name}_{part}" for name in NAMES for part in ("host", "port")]
    return {**{part: getattr(arguments, part) for part in parts}, "tls": _tls(arguments)}


def warnings(arguments: argparse.Namespace) -> list[str]:
    """What whoever listens beyond loopback should know, one line for each endpoint that does."""
    found = []
    hosts = {name: getattr(arguments, f"{name}_host") for name in NAMES}
    outside = {name: f"{NAMES[name]} on {host}" for name, host in hosts.items() if not is_loopback(host)}
    if "grpc" in outside and arguments.tls_cert is None:
        found.append(
            f"{outside['grpc']} is not encrypted, and anyone who reaches it can use it: see --tls-cert, --tls-client-ca"
        )
    elif "grpc" in outside and arguments.tls_client_ca is None:
        found.append(
            f"{outside['grpc']}: anyone who reaches it can use it; --tls-client-ca asks for certificates"
        )
    if "http" in outside:
        found.append(
            f"{outside['http']} is not encrypted, anyone who reaches it can use it, and Triton 24.10 has memory errors"
            " in reading chunked HTTP bodies (mended in 25.07): it belongs behind a proxy that buffers requests,"
            ' see "Beyond loopback" in the documentation of HTTP'
        )
    if "metrics" in outside:
        found.append(f"{outside['metrics']}: anyone who reaches them can read them")
    return found


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches what listens there."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _tls(arguments: argparse.Namespace) -> Tls | None:
    """Raises StartError: one of the files is missing without which the others mean nothing."""
    certificate, key, client_ca = arguments.tls_cert, arguments.tls_key, arguments.tls_client_ca
    if certificate is None and key is None and client_ca is None:
        return None
    if certificate is None or key is None:
        raise StartError("gRPC with TLS needs both --tls-cert and --tls-key")
    return Tls(certificate, key, client_ca)


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port")
    return port
