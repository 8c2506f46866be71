"""Regions come from ids: right pixels for well-formed answers, nothing lost without a word in malformed ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence2_sam2.postprocess.regions import AnswerTokens, Parsed, Region, parse_regions

BOS, PAD, EOS, POLY, POLY_END, SEP, AND, OD = range(8)
FIRST_LETTER, FIRST_LOCATION, BINS = 100, 50000, 1000
LETTERS = "abcdefghijklmnopqrstuvwxyzIT éüあ犬\n\t.,'<>"


def decode(ids: Sequence[int]) -> str:
    return "".join(LETTERS[token - FIRST_LETTER] for token in ids)


TOKENS = AnswerTokens(
    decode=decode,
    location_first=FIRST_LOCATION,
    location_bins=BINS,
    special=frozenset(range(8)) | frozenset(range(FIRST_LOCATION, FIRST_LOCATION + BINS)),
    polygon_start=POLY,
    polygon_end=POLY_END,
    polygon_separator=SEP,
)


def ids(*parts: str | int | tuple[int, ...]) -> list[int]:
    """Text, a special id, or a tuple of location bins."""
    found: list[int] = []
    for part in parts:
        if isinstance(part, str):
            found += [FIRST_LETTER + LETTERS.index(letter) for letter in part]
        elif isinstance(part, int):
            found.append(part)
        else:
            found += [FIRST_LOCATION + number for number in part]
    return found


def parse(
    *parts: str | int | tuple[int, ...], form: str = "phrase_grounding", banned: tuple[str, ...] = ()
) -> Parsed:
    return parse_regions(ids(*parts), form, TOKENS, width=1000, height=500, banned=banned)


BOX = (100, 200, 300, 400)
PIXELS = (100, 100, 300, 200)
OTHER = (10, 20, 500, 999)
OTHER_PIXELS = (10, 10, 500, 499)


def test_phrases_with_one_and_with_several_boxes() -> None:
    parsed = parse(BOS, "a cat", BOX, "two dogs", BOX, OTHER, EOS, PAD)
    assert parsed == Parsed(
        [Region("a cat", PIXELS), Region("two dogs", PIXELS), Region("two dogs", OTHER_PIXELS)], []
    )


@pytest.mark.parametrize(
    ("text", "label"),
    [
        (" a cat ", "a cat"),
        ("café", "café"),
        ("犬", "犬"),
        ("a\ncat", "a cat"),
        ("\n a cat\n", "a cat"),
        ("a<b>", "a<b>"),
        ("a  cat.", "a  cat."),
    ],
)
def test_labels_keep_what_they_say(text: str, label: str) -> None:
    assert parse(text, BOX).regions == [Region(label, PIXELS)]


@pytest.mark.parametrize("form", ["phrase_grounding", "description_with_bboxes"])
def test_separators_are_no_part_of_a_label(form: str) -> None:
    parsed = parse("a cat", BOX, AND, "a dog", OTHER, form=form)
    assert parsed == Parsed([Region("a cat", PIXELS), Region("a dog", OTHER_PIXELS)], [])
    assert parse(AND, "dog", BOX, form=form).regions == [Region("dog", PIXELS)]
    joined = parse("cat", AND, "dog", BOX, form=form)
    assert joined == Parsed([Region("dog", PIXELS)], ["phrases without a location: cat"])


def test_banned_phrases_are_marked_whatever_their_case_and_only_in_grounding() -> None:
    banned = ("the image", "It")
    parsed = parse("The Image", BOX, OTHER, "it", BOX, "the images", BOX, banned=banned)
    assert [(region.label, region.dropped) for region in parsed.regions] == [
        ("The Image", "banned_phrase"),
        ("The Image", "banned_phrase"),
        ("it", "banned_phrase"),
        ("the images", None),
    ]
    assert parse("it", BOX, form="description_with_bboxes", banned=banned).regions[0].dropped is None


@pytest.mark.parametrize(
    "box", [(300, 200, 100, 400), (100, 400, 300, 200), (100, 200, 100, 400), (5, 5, 5, 5)]
)
def test_inverted_and_empty_boxes_are_marked(box: tuple[int, ...]) -> None:
    (region,) = parse("a cat", box).regions
    assert region.dropped == "degenerate_box"
    assert region.box is not None


def test_boxes_that_vanish_in_a_tiny_picture_are_marked() -> None:
    (region,) = parse_regions(ids("a cat", BOX), "phrase_grounding", TOKENS, 1, 1).regions
    assert (region.box, region.dropped) == ((0, 0, 0, 0), "degenerate_box")


@pytest.mark.parametrize(
    ("parts", "kept", "leftover"),
    [
        (("cat", (1, 2, 3), "dog", BOX), ["dog"], 3),
        (("cat", (*BOX, 7), "dog", (*OTHER, 1, 2, 3)), ["cat", "dog"], 4),
        (("cat", (1,)), [], 1),
        (((1, 2),), [], 2),
    ],
)
def test_incomplete_runs_are_counted(
    parts: tuple[str | tuple[int, ...], ...], kept: list[str], leftover: int
) -> None:
    parsed = parse(*parts)
    assert [region.label for region in parsed.regions] == kept
    assert parsed.warnings == [f"location tokens in no complete region: {leftover}"]


def test_locations_without_a_label() -> None:
    assert parse(BOX, form="bboxes") == Parsed([Region("", PIXELS)], [])
    assert parse(BOX, OTHER, form="bboxes").regions == [Region("", PIXELS), Region("", OTHER_PIXELS)]
    assert [region.dropped for region in parse(BOX).regions] == ["no_label"]
    assert [region.dropped for region in parse(" \n", BOX).regions] == ["no_label"]


def test_text_without_locations_is_told() -> None:
    assert parse("a cat").warnings == ["phrases without a location: a cat"]
    assert parse("a cat", BOX, "and more").warnings == ["phrases without a location: and more"]


@pytest.mark.parametrize("form", ["phrase_grounding", "bboxes", "ocr", "polygons", "pure_text"])
def test_an_empty_answer_is_no_regions(form: str) -> None:
    assert parse(form=form) == parse(BOS, EOS, PAD, form=form) == Parsed([], [])


def test_ocr_reads_quads() -> None:
    quad = (0, 0, 999, 0, 999, 999, 0, 999)
    parsed = parse(BOS, "exit", quad, "café\n", quad, (1, 2), EOS, form="ocr")
    pixels = (0, 0, 999, 0, 999, 499, 0, 499)
    assert parsed.regions == [Region("exit", quad=pixels), Region("café", quad=pixels)]
    assert parsed.warnings == ["location tokens in no complete region: 2"]


TRIANGLE, TRIANGLE_PIXELS = (0, 0, 100, 0, 100, 100), (0, 0, 100, 0, 100, 50)
SQUARE, SQUARE_PIXELS = (0, 0, 10, 0, 10, 10, 0, 10), (0, 0, 10, 0, 10, 5, 0, 5)


def test_polygons_of_one_and_of_several_instances() -> None:
    assert parse(BOS, TRIANGLE, EOS, form="polygons").regions == [Region("", polygons=(TRIANGLE_PIXELS,))]
    two_parts = parse(TRIANGLE, SEP, SQUARE, form="polygons").regions
    assert two_parts == [Region("", polygons=(TRIANGLE_PIXELS, SQUARE_PIXELS))]
    two_instances = parse(
        "cat", POLY, TRIANGLE, SEP, SQUARE, POLY_END, POLY, SQUARE, POLY_END, form="description_with_polygons"
    )
    assert two_instances.regions == [
        Region("cat", polygons=(TRIANGLE_PIXELS, SQUARE_PIXELS)),
        Region("cat", polygons=(SQUARE_PIXELS,)),
    ]


def test_malformed_polygons_are_counted() -> None:
    odd = parse((*TRIANGLE, 5), form="polygons")
    assert odd.regions == [Region("", polygons=(TRIANGLE_PIXELS,))]
    assert odd.warnings == ["location tokens in no complete region: 1"]
    short = parse((1, 2, 3, 4), form="polygons")
    assert [region.dropped for region in short.regions] == ["degenerate_polygon"]
    assert short.warnings == ["polygons of fewer than 3 points: 1"]
    unclosed = parse("cat", POLY, TRIANGLE, POLY_END, POLY, SQUARE, form="description_with_polygons")
    assert unclosed.regions == [Region("cat", polygons=(TRIANGLE_PIXELS,))]
    assert unclosed.warnings == ["location tokens in no complete region: 8"]


def test_open_vocabulary_answers_are_boxes_unless_they_hold_polygons() -> None:
    form = "description_with_bboxes_or_polygons"
    assert parse("cat", BOX, form=form).regions == [Region("cat", PIXELS)]
    polygon = parse("cat", POLY, TRIANGLE, POLY_END, form=form).regions
    assert polygon == [Region("cat", polygons=(TRIANGLE_PIXELS,))]


def test_unknown_forms_are_a_bug() -> None:
    with pytest.raises(ValueError, match="no answer form"):
        parse(form="sculpture")


def test_a_score_is_the_mean_over_the_label_and_the_boxs_own_locations() -> None:
    answer = ids(BOS, "ab", BOX, OTHER, "c", BOX, EOS)
    probabilities = np.linspace(0.1, 0.9, len(answer))
    parsed = parse_regions(
        answer, "phrase_grounding", TOKENS, 1000, 500, log_probabilities=np.log(probabilities)
    )
    places = ([1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 9, 10], [11, 12, 13, 14, 15])
    assert [region.score for region in parsed.regions] == [
        pytest.approx(np.prod(probabilities[at]) ** (1 / len(at))) for at in places
    ]
    quad = parse_regions(ids(BOX, BOX), "ocr", TOKENS, 10, 10, log_probabilities=[-1.0] * 8).regions[0]
    assert quad.score == pytest.approx(np.exp(-1))
    polygon = parse_regions(ids(TRIANGLE), "polygons", TOKENS, 10, 10, log_probabilities=[-1.0] * 6)
    assert polygon.regions[0].score is None


def test_json_has_what_there_is() -> None:
    plain = parse("cat", BOX).regions[0].as_json()
    assert plain == {"label": "cat", "dropped": None, "score": None, "box": list(PIXELS)}
    quad = parse("cat", (*BOX, *BOX), form="ocr").regions[0].as_json()
    assert quad["quad"] == [*PIXELS, *PIXELS]
    assert "box" not in quad
    assert parse(TRIANGLE, form="polygons").regions[0].as_json()["polygons"] == [list(TRIANGLE_PIXELS)]


any_token = st.one_of(
    st.integers(0, 7),
    st.integers(FIRST_LETTER, FIRST_LETTER + len(LETTERS) - 1),
    st.integers(FIRST_LOCATION, FIRST_LOCATION + BINS - 1),
)


@given(
    st.lists(any_token, max_size=60),
    st.sampled_from(["phrase_grounding", "description_with_bboxes", "bboxes", "ocr", "polygons"]),
    st.integers(1, 5000),
    st.integers(1, 5000),
)
def test_no_location_disappears_from_any_sequence(
    sequence: list[int], form: str, width: int, height: int
) -> None:
    """Each location token is in a region or counted, and every pixel lies in the picture."""
    parsed = parse_regions(sequence, form, TOKENS, width, height)
    told = [warning for warning in parsed.warnings if "location tokens" in warning]
    counted = int(told[0].split()[-1]) if told else 0
    used = 0
    for region in parsed.regions:
        for points in (region.box or (), region.quad or (), *region.polygons):
            used += len(points)
            assert all(0 <= x < width for x in points[0::2])
            assert all(0 <= y < height for y in points[1::2])
    locations = sum(TOKENS.is_location(token) for token in sequence)
    if form == "polygons":
        assert used + counted <= locations
        assert used + counted == locations or "polygons of fewer than 3 points" in " ".join(parsed.warnings)
    else:
        assert used + counted == locations
