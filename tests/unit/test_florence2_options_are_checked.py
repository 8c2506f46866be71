"""The options of a Florence-2 call: what is right is read, what is wrong is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.florence2_options import Florence2Options, parse_options


def test_all_options() -> None:
    raw = json.dumps(
        {
            "num_beams": 3,
            "max_new_tokens": 50,
            "min_new_tokens": 0,
            "phrases": ["a cat", "é"],
            "priority": "bulk",
        }
    ).encode()
    assert parse_options(raw) == Florence2Options(3, 50, 0, ("a cat", "é"), "bulk")


@pytest.mark.parametrize("raw", [b"", b"  \n", b"{}"])
def test_nothing_said_is_the_checkpoints_own(raw: bytes) -> None:
    assert parse_options(raw) == Florence2Options()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[]", r"options: must be a JSON object, not a list"),
        (b"null", r"options: must be a JSON object, not null"),
        (b"3", r"options: must be a JSON object, not a number"),
        (b"{", r"options: must be a JSON object in UTF-8"),
        (b"\xff{}", r"options: must be a JSON object in UTF-8"),
        (b"[" * 100_000, r"options: must be a JSON object in UTF-8"),
        (b'{"num_beams": 1, "num_beams": 2}', r"options: must be a JSON object in UTF-8"),
        (b'{"num_beams": NaN}', r"options: must be a JSON object in UTF-8"),
        (b'{"num_beams": ' + b"9" * 10_000 + b"}", r"options: must be a JSON object in UTF-8"),
        (b'{"beams": 1}', r"options: unknown key 'beams'; known are num_beams, max_new_tokens"),
        (b'{"num_beams": 0}', r"options\.num_beams: must be an integer from 1 to 8"),
        (b'{"num_beams": 9}', r"options\.num_beams: must be an integer from 1 to 8"),
        (b'{"num_beams": true}', r"options\.num_beams: must be an integer from 1 to 8, not a boolean"),
        (b'{"num_beams": 3.0}', r"options\.num_beams: must be an integer from 1 to 8, not a number"),
        (b'{"num_beams": "3"}', r"options\.num_beams: must be an integer from 1 to 8, not a string"),
        (b'{"num_beams": null}', r"options\.num_beams: must be an integer from 1 to 8, not null"),
        (b'{"max_new_tokens": 0}', r"options\.max_new_tokens: must be an integer of at least 1"),
        (b'{"min_new_tokens": -1}', r"options\.min_new_tokens: must be an integer of at least 0"),
        (b'{"phrases": "a cat"}', r"options\.phrases: must be a list"),
        (b'{"phrases": []}', r"options\.phrases: must be a list of at least one"),
        (b'{"phrases": ["a", 3]}', r"options\.phrases\[1\]: must be a phrase"),
        (b'{"phrases": ["a", " "]}', r"options\.phrases\[1\]: must be a phrase"),
        (b'{"priority": "urgent"}', r"options\.priority: must be one of interactive, bulk"),
        (b'{"priority": ["bulk"]}', r"options\.priority: must be one of interactive, bulk"),
    ],
)
def test_mistakes_are_named(raw: bytes, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        parse_options(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["num_beams", "max_new_tokens", "min_new_tokens", "phrases", "priority", "other"])


@given(
    st.binary(max_size=40)
    | st.dictionaries(names, json_values, max_size=3).map(lambda v: json.dumps(v).encode())
)
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        parse_options(raw)
    except InvalidRequest as refusal:
        assert refusal.message.startswith("options")
