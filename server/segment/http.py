"""What `segment_http` does to a JSON request before `segment` sees it."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import difflib
import json
from collections.abc import Collection, Mapping
from typing import Any

from florence2_sam2.server import request_id, tracing
from florence2_sam2.server.errors import InvalidRequest, shown
from florence2_sam2.server.segment.request import THRESHOLDS, Options

# Fields passed on to `segment` as they are. Raw bytes cannot be written in JSON, so `image` is not among them.
FIELDS = ("image_url", "caption", *THRESHOLDS, "polygon_precision", "output_mask", "options")
ALL_FIELDS = ("image_base64", *FIELDS)
# What a call is known by: headers that Triton hands on, or fields of these names.
MARKS = frozenset((request_id.FIELD, request_id.HEADER, tracing.TRACEPARENT, tracing.TRACESTATE))
OPTIONS = frozenset(field.name for field in dataclasses.fields(Options))


def refuse_unknown(parameters: Mapping[str, Any] | str | None) -> None:
    """Refuse a call with fields that are no inputs; the generate endpoint hands them over as request parameters.

    Raises:
        InvalidRequest: naming the first such field, and the known one that it may have been meant to be.
    """
    named = json.loads(parameters or "{}") if isinstance(parameters, str) else dict(parameters or {})
    for name in named:
        if name.lower() in MARKS:
            continue
        raise InvalidRequest(shown(name), f"unknown field; {_hint(name)}")


def _hint(name: str) -> str:
    if name in OPTIONS:
        return f"{name} is a key of options, a text that holds a JSON object"
    close = difflib.get_close_matches(name, ALL_FIELDS, n=1)
    return f"did you mean {close[0]}?" if close else f"the fields are {', '.join(ALL_FIELDS)}"


def check_sources(given: Collection[str]) -> None:
    """`segment` would speak of `image`, which this model does not have.

    Raises:
        InvalidRequest: not exactly one picture is given.
    """
    sources = [name for name in ("image_base64", "image_url") if name in given]
    if len(sources) != 1:
        found = "both were" if sources else "neither was"
        raise InvalidRequest(
            "image_base64", f"exactly one of image_base64 and image_url is needed, {found} given"
        )


def decode_base64(encoded: bytes, limit: int) -> bytes:
    """Standard base64, with or without line breaks.

    Raises:
        InvalidRequest: it is no base64, or stands for more than `limit` bytes, which is known before they are made.
    """
    text = b"".join(encoded.split())
    if len(text) * 3 // 4 - text[-2:].count(b"=") > limit:
        raise InvalidRequest(
            "image_base64", f"it stands for more than the {limit} bytes that this server takes"
        )
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise InvalidRequest("image_base64", f"this is no base64 ({error})") from None
