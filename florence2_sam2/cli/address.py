"""Where the commands look for a server, and what they show it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

URL_VARIABLE = "FLORENCE2_SAM2_URL"
DEFAULT_URL = "grpc://localhost:8001"
KEY_VARIABLE = "FLORENCE2_SAM2_API_KEY"

# Flags of the client's options, for what it says of them.
_FLAGS = {
    "headers": "--header",
    "root_certificates": "--root-certificates",
    "certificate_chain": "--certificate-chain",
    "private_key": "--private-key",
}


def default_url() -> str:
    return os.environ.get(URL_VARIABLE, DEFAULT_URL)


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """What a proxy before the server may ask for. No key is the value of a flag: others would see it in `ps`."""
    group = parser.add_argument_group("a server behind a proxy")
    group.add_argument(
        "--api-key-file",
        type=Path,
        metavar="FILE",
        help=f"the key of `Authorization: Bearer` (default: ${KEY_VARIABLE})",
    )
    group.add_argument(
        "--header",
        dest="headers",
        action="append",
        type=_header,
        metavar="NAME:VALUE",
        help="sent with each call (repeatable)",
    )
    group.add_argument(
        "--root-certificates",
        type=Path,
        metavar="FILE",
        help="with grpcs://: the authorities to trust in place of the usual ones (PEM)",
    )
    group.add_argument(
        "--certificate-chain",
        type=Path,
        metavar="FILE",
        help="with grpcs://: this client's certificate (PEM)",
    )
    group.add_argument("--private-key", type=Path, metavar="FILE", help="with grpcs://: and its key (PEM)")


def credentials(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was given, as `Segmenter` takes it.

    Raises:
        ValueError: a flag is wrong, or a file cannot be read. The message names it.
    """
    given: dict[str, Any] = {
        "api_key": _key(arguments.api_key_file),
        "headers": dict(arguments.headers or []) or None,
        "root_certificates": arguments.root_certificates,
        "certificate_chain": arguments.certificate_chain,
        "private_key": arguments.private_key,
    }
    return {name: value for name, value in given.items() if value is not None}


def require_usable(url: str | list[str], given: Mapping[str, Any]) -> None:
    """Whether a client can be made of them.

    Raises:
        ValueError: it cannot. The message names the flag.
    """
    # Here, for commands that take no time of their own to start.
    from florence2_sam2.client.connection import Options, parse_address

    try:
        address = parse_address(url)
    except ValueError as error:
        raise ValueError(f"--url: {error}") from None
    try:
        Options(**given).metadata()
    except ValueError as error:
        # Of a key's value it says that it is wrong, never what it is.
        about_key = "authorization" in str(error) and "api_key" in given
        where = f"${KEY_VARIABLE} or --api-key-file" if about_key else "--header"
        raise ValueError(f"{where}: {str(error).removeprefix('headers: ')}") from None
    try:
        Options(**given).arguments(address)
    except ValueError as error:
        message = str(error)
        for name, flag in _FLAGS.items():
            message = message.replace(name, flag)
        raise ValueError(message if message.startswith("--") else f"--url: {message}") from None
    except OSError as error:
        flag = next(flag for name, flag in _FLAGS.items() if str(given.get(name)) == str(error.filename))
        raise ValueError(f"{flag}: {error.filename}: {error.strerror}") from None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:VALUE")
    return name.strip(), value.strip()


def _key(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(KEY_VARIABLE, "").strip() or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"--api-key-file: {file}: {getattr(error, 'strerror', None) or 'is no text'}"
        ) from None
    if not key:
        raise ValueError(f"--api-key-file: {file} is empty")
    return key
