"""A request id is short and printable, wherever it comes from; without one a call gets one of its own."""

from __future__ import annotations

import re

import pytest

from florence2_sam2.client.marks import Marks
from florence2_sam2.server import request_id
from florence2_sam2.server.errors import InvalidRequest

GOOD = ["1", "a" * 128, "order 17/b", "7f3c-…".replace("…", "~"), '{"quoted"}']
BAD = ["a" * 129, "two\nlines", "\x1b[31mred", "\0", "\x7f", "naïve", "tab\t"]


@pytest.mark.parametrize("value", GOOD)
def test_good_ones_are_taken_as_they_are(value: str) -> None:
    assert request_id.chosen(value, {}) == value
    assert request_id.chosen("", {"id": value}) == value
    assert request_id.chosen("", {"x-request-id": value}) == value
    assert Marks.of(value, None).request_id == value


@pytest.mark.parametrize("value", BAD)
def test_others_are_refused_by_the_name_of_their_field(value: str) -> None:
    for given, field in (((value, {}), "id"), (("", {"x-request-id": value}), "x-request-id")):
        with pytest.raises(InvalidRequest) as refused:
            request_id.chosen(*given)
        assert refused.value.field == field
        assert refused.value.problem == "a request id has 1 to 128 characters, all of them printable ASCII"
    with pytest.raises(ValueError, match=r"^request_id: 1 to 128 characters of printable ASCII are wanted$"):
        Marks.of(value, None)


def test_a_header_is_asked_only_where_the_request_has_none() -> None:
    assert request_id.chosen("own", {"x-request-id": "the proxy's"}) == "own"
    assert request_id.chosen("", {}) is None
    assert request_id.chosen("", {"x-request-id": ""}) is None
    assert request_id.chosen("", {"id": "own", "x-request-id": "the proxy's"}) == "own"
    for name in ("id", "x-request-id"):
        with pytest.raises(InvalidRequest, match=name):
            request_id.chosen("", {name: 5})


def test_made_ones_are_short_and_differ() -> None:
    for make in (request_id.made, lambda: Marks.of(None, None).request_id):
        made = {make() for _ in range(1000)}
        assert len(made) == 1000
        assert all(re.fullmatch("[0-9a-f]{16}", value) for value in made)
