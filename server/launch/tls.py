"""The files of gRPC with TLS, looked at before the start: Triton would say nothing of them that helps."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.server.launch.errors import StartError


@dataclass(frozen=True)
class Tls:
    """PEM files: the server's certificate (with those between it and the authority) and its key; `client_ca`: the
    authorities of clients, who then must have a certificate."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def arguments(self) -> list[str]:
        """Triton's."""
        files = [
            f"--grpc-server-cert={self.certificate.resolve()}",
            f"--grpc-server-key={self.key.resolve()}",
        ]
        if self.client_ca is None:
            return ["--grpc-use-ssl=true", *files]
        return ["--grpc-use-ssl-mutual=true", *files, f"--grpc-root-cert={self.client_ca.resolve()}"]


def check_tls(tls: Tls) -> None:
    """The files can be read and belong together.

    Raises:
        StartError: naming the flag.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    named = [("--tls-cert", tls.certificate), ("--tls-key", tls.key), ("--tls-client-ca", tls.client_ca)]
    for flag, path in named:
        if path is not None:
            _check_readable(flag, path)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except _Encrypted:
        raise StartError(
            "--tls-key: the key is encrypted, which Triton does not read: openssl pkey -in F -out G"
        ) from None
    except ssl.SSLError as error:
        raise StartError(
            f"--tls-cert and --tls-key: no certificate and its key in PEM that belong together ({_reason(error)})"
        ) from None
    if tls.client_ca is not None:
        try:
            context.load_verify_locations(tls.client_ca)
        except ssl.SSLError as error:
            raise StartError(f"--tls-client-ca: no certificates in PEM ({_reason(error)})") from None


class _Encrypted(Exception):
    """A key asks for its password."""


def _no_password() -> str:
    raise _Encrypted


def _check_readable(flag: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise StartError(f"{flag}: {path} cannot be read ({error.strerror})") from None


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").lower().replace("_", " ")
