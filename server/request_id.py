"""What a call is known by in answers, logs and traces: an id that its caller chooses, or that is made here."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any

from florence2_sam2.server.errors import InvalidRequest

LONGEST = 128
# Of a call over HTTP, where Triton 24.10 makes a request parameter of it, later ones the request's own id.
FIELD = "id"
# A header of the call, which Triton hands on as a request parameter: proxies and HTTP clients have it as a custom.
HEADER = "x-request-id"
# No line end, no escape of a terminal, nothing that a reader of logs could take for something else.
_FORM = re.compile(rf"[ -~]{{1,{LONGEST}}}")


def made() -> str:
    """A new id: 16 hexadecimal digits, 64 bits of chance."""
    return secrets.token_hex(8)


def chosen(own: str, parameters: Mapping[str, Any]) -> str | None:
    """The id that the caller has chosen: the request's own, in FIELD, else the one in HEADER; None without one.

    Args:
        parameters: the request's, by lower-case name.

    Raises:
        InvalidRequest: it is too long, or has other characters than printable ASCII.
    """
    value = own or parameters.get(FIELD)
    field = FIELD if value else HEADER
    value = value or parameters.get(HEADER)
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _FORM.fullmatch(value):
        raise InvalidRequest(
            field, f"a request id has 1 to {LONGEST} characters, all of them printable ASCII"
        )
    return value
