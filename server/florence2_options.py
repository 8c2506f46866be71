"""The `options` of a call of the `florence2` model."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.generation.waiting import PRIORITIES, Priority

MAX_BEAMS = 8


@dataclass(frozen=True)
class Florence2Options:
    """Settings of one request. None: what the checkpoint says.

    `phrases` are grounded as they are and take the place of the text under <CAPTION_TO_PHRASE_GROUNDING>.
    """

    num_beams: int | None = None
    max_new_tokens: int | None = None
    min_new_tokens: int | None = None
    phrases: tuple[str, ...] | None = None
    priority: Priority = "interactive"


def parse_options(raw: bytes) -> Florence2Options:
    """Read the JSON object of a request; empty bytes are an empty object.

    Raises:
        InvalidRequest: it is no JSON object, has an unknown key, or a value of the wrong type or range.
    """
    if not raw.strip():
        return Florence2Options()
    try:
        body = json.loads(
            raw.decode("utf-8"), parse_constant=_refuse_constant, object_pairs_hook=_unique_keys
        )
    except (ValueError, RecursionError):
        raise InvalidRequest("options", "must be a JSON object in UTF-8") from None
    if not isinstance(body, dict):
        raise InvalidRequest("options", f"must be a JSON object, not {_kind(body)}")
    unknown = sorted(body.keys() - _READERS.keys())
    if unknown:
        raise InvalidRequest("options", f"unknown key {unknown[0][:100]!r}; known are {', '.join(_READERS)}")
    return Florence2Options(**{key: _READERS[key](f"options.{key}", value) for key, value in body.items()})


def _integer(field: str, value: Any, low: int, high: int | None = None) -> int:
    span = f"from {low} to {high}" if high is not None else f"of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(field, f"must be an integer {span}, not {_kind(value)}")
    if value < low or (high is not None and value > high):
        raise InvalidRequest(field, f"must be an integer {span}")
    return value


def _phrases(field: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InvalidRequest(field, "must be a list of at least one phrase")
    for index, phrase in enumerate(value):
        if not isinstance(phrase, str) or not phrase.strip():
            raise InvalidRequest(f"{field}[{index}]", "must be a phrase, a string that is not blank")
    return tuple(value)


def _priority(field: str, value: Any) -> Priority:
    for name in PRIORITIES:
        if value == name:
            return name
    raise InvalidRequest(field, f"must be one of {', '.join(PRIORITIES)}")


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "num_beams": lambda field, value: _integer(field, value, 1, MAX_BEAMS),
    "max_new_tokens": lambda field, value: _integer(field, value, 1),
    "min_new_tokens": lambda field, value: _integer(field, value, 0),
    "phrases": _phrases,
    "priority": _priority,
}


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    body = dict(pairs)
    if len(body) != len(pairs):
        raise ValueError("a key is given twice")
    return body
