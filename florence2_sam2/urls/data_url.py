"""Pictures inside `data:` URLs (RFC 2397)."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from florence2_sam2.urls.rules import RefusedUrl, TooLarge

_HEADER = re.compile(r"data:(?P<type>[^;,\s]*)(?:;[^;,=\s]+=[^;,\s]*)*(?P<base64>;base64)?,", re.IGNORECASE)
_HEADER_LENGTH = 256
_SPACE = re.compile(rb"[ \t\r\n]+")
_FORM = "data:image/jpeg;base64,…"


def decode(url: str, max_bytes: int) -> bytes:
    """The bytes of `data:image/…;base64,…`. What they are is left to the caller.

    Raises:
        RefusedUrl: not of this form, or no valid base64.
        TooLarge: more than `max_bytes`.
    """
    header = _HEADER.match(url[:_HEADER_LENGTH])
    if header is None or header["base64"] is None:
        raise RefusedUrl(f"is no data URL of the form {_FORM}")
    kind = header["type"].lower()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise RefusedUrl(f"is a data URL of another kind than a picture; send {_FORM}")
    # Four characters stand for three bytes; a character may be percent-encoded in three.
    if len(url) > 4 * max_bytes + _HEADER_LENGTH:
        raise TooLarge(max_bytes)
    # Nearly always none is: then it is known before anything of that size is copied.
    if "%" not in url and (len(url) - header.end() - sum(map(url.count, " \t\r\n="))) // 4 * 3 > max_bytes:
        raise TooLarge(max_bytes)
    text = url[header.end() :].encode("utf-8", "replace")
    body = _SPACE.sub(b"", unquote_to_bytes(text) if b"%" in text else text).rstrip(b"=")
    if len(body) // 4 * 3 > max_bytes:
        raise TooLarge(max_bytes)
    try:
        data = base64.b64decode(body + b"=" * (-len(body) % 4), validate=True)
    except binascii.Error:
        raise RefusedUrl(f"is damaged: what follows the comma is no base64; send {_FORM}") from None
    if not data:
        raise RefusedUrl(f"is an empty data URL; send {_FORM}")
    return data
