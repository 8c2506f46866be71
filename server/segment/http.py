"""What `segment_http` does to a JSON request before `segment` sees it."""

from __future__ import annotations

import base64
import binascii
import difflib
import json
from collections.abc import Mapping
from typing import Any

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.segment.request import THRESHOLDS

# Fields passed on to `segment` as they are. Raw bytes cannot be written in JSON, so `image` is not among them.
FIELDS = ("image_url", "caption", *THRESHOLDS, "polygon_precision", "output_mask", "options")
ALL_FIELDS = ("image_base64", *FIELDS)


def refuse_unknown(parameters: Mapping[str, Any] | str | None) -> None:
    """Refuse a call with fields that are no inputs; the generate endpoint hands them over as request parameters.

    Raises:
        InvalidRequest: naming the first such field, and the known one that it may have been meant to be.
    """
    named = json.loads(parameters or "{}") if isinstance(parameters, str) else dict(parameters or {})
    for name in named:
        close = difflib.get_close_matches(name, ALL_FIELDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(ALL_FIELDS)}"
        raise InvalidRequest(str(name)[:60], f"unknown field; {hint}")


def decode_base64(encoded: bytes) -> bytes:
    """Standard base64, with or without line breaks.

    Raises:
        InvalidRequest: it is no base64.
    """
    try:
        return base64.b64decode(b"".join(encoded.split()), validate=True)
    except binascii.Error as error:
        raise InvalidRequest("image_base64", f"this is no base64 ({error})") from None
