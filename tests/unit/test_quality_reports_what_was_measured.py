"""The table of targets, its verdicts, and the JSON and sheet beside it, from judged scenes made by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from bench.quality import scenes
from bench.quality.judge import EndToEnd, Fault, Mark, Sureness
from bench.quality.report import (
    MIN_KIND,
    Row,
    report_text,
    roc_area,
    rows,
    telling,
    to_json,
    worst_kind,
)
from bench.quality.run import Judged
from bench.quality.sheet import COLUMNS, contact_sheet, worst
from florence2_sam2.training.statistics import Estimate


def marks(*values: float, kind: str = "car", unseen: bool = False) -> list[Mark]:
    return [Mark(kind, "0.1-0.2", unseen, v) for v in values]


def judged(number: int, *, quality: float = 1.0, missed: int = 0) -> Judged:
    """A scene in which everything is right to the degree of `quality`, but for things that were missed."""
    hits = marks(*[1.0] * (12 - missed), *[0.0] * missed)
    whole = EndToEnd(
        hits,
        hits,
        marks(1.0, 1.0),
        [Fault("no right box", "missed a red car: no box")] * missed,
        [],
        [Sureness(True, 0.5, 0.9), Sureness(number % 2 == 0, 0.25, 0.9)],
    )
    body = {
        "image": {"width": 320, "height": 320},
        "caption": "The image shows a red car.",
        "objects": [],
        "filtered": [],
        "parameters": {"area_threshold": 0.3},
    }
    width, height = scenes.ASPECTS[number % len(scenes.ASPECTS)]
    body["image"] = {"width": width, "height": height}
    return Judged(
        number,
        False,
        "The image shows a red car.",
        {1: marks(*[quality] * 12)},
        marks(*[quality] * 12),
        marks(1 - quality),
        {1: whole},
        {1: body},
    )


def held_out(*values: float) -> Judged:
    return Judged(0, True, "", {1: [*marks(*values, unseen=True), *marks(0.0, 0.0)]})


def test_a_target_is_met_from_its_value_on() -> None:
    def row(value: float, at_most: bool = False) -> Row:
        return Row("", 0.5, Estimate(value, 0, 1, 9), at_most)

    assert row(0.5).met
    assert not row(0.499).met
    assert row(0.5, at_most=True).met
    assert not row(0.501, at_most=True).met
    assert not row(float("nan")).met
    assert not row(float("nan"), at_most=True).met


def test_perfect_scenes_meet_every_target() -> None:
    table = rows([judged(0), judged(1), held_out(1.0, 0.6)], 1)
    assert all(row.met for row in table)
    assert [row.measured.value for row in table] == [1, 1, 1, 1, 1, 0, 1, 1]


@pytest.mark.parametrize(
    ("scene", "failing"),
    [
        (judged(1, missed=5), {6}),
        (judged(1, quality=0.45), {0, 1, 4, 5}),  # boxes below one half are lost, not poor
        (judged(1, quality=0.6), {3, 4, 5}),
        (held_out(0.4, 0.6), {2}),
    ],
)
def test_each_fault_shows_in_its_own_rows(scene: Judged, failing: set[int]) -> None:
    table = rows([judged(0), held_out(1.0), scene], 1)
    assert {index for index, row in enumerate(table) if not row.met} == failing


def test_only_unseen_pairs_of_the_extra_scenes_count_as_unseen() -> None:
    row = rows([judged(0), held_out(1.0, 0.3)], 1)[2]
    assert (row.measured.value, row.measured.count) == (0.5, 2)


def test_the_worst_kind_has_enough_things_to_say_so() -> None:
    many, few = marks(*[1.0] * MIN_KIND, kind="cup"), marks(*[0.0] * (MIN_KIND - 1), kind="key")
    assert worst_kind([many, few])[0] == "cup"
    assert worst_kind([many, [*few, *marks(0.0, kind="key")]])[0] == "key"
    assert np.isnan(worst_kind([few])[1].value)


def test_the_report_shows_targets_misses_and_reasons() -> None:
    text = report_text([judged(0), judged(1, missed=5), held_out(1.0)], [1])
    lines = text.splitlines()
    assert sum("| yes |" in line for line in lines) == 7
    assert sum("| NO  |" in line for line in lines) == 1
    assert any("missed: no right box" in line and "5" in line for line in lines)
    assert any(line.startswith("| car") for line in lines)


def test_json_has_every_number_and_no_nan() -> None:
    few = replace(judged(0), grounding={1: marks(1.0)}, masks=marks(1.0))
    body = json.loads(json.dumps(to_json([few, held_out(1.0)], [1]), allow_nan=False))
    table = body["targets"]["greedy"]
    assert len(table) == 8
    assert [row["value"] for row in table][1] is None
    assert body["scenes"][0]["end_to_end"]["greedy"]["of"] == 12
    assert body["by kind"]["mask IoU"]["car"]["count"] == 1


def test_the_worst_scenes_come_first_and_fit_on_a_sheet() -> None:
    some = [judged(0), judged(1, missed=2), held_out(0.0), judged(2, missed=6), judged(3, quality=0.6)]
    chosen = worst(some, 1, count=3)
    assert [j.number for j in chosen] == [2, 1, 3]
    sheet = contact_sheet(chosen, 1)
    assert sheet.width > COLUMNS * 3 * 320
    assert sheet.height > 2 * 320
    assert np.asarray(sheet).std() > 10


def test_scenes_do_not_depend_on_each_other_and_are_never_trainings() -> None:
    first = scenes.draw(3)
    again = scenes.draw(3)
    assert np.array_equal(first.image, again.image)
    assert not np.array_equal(first.image, scenes.draw(3, held_out=True).image)
    assert first.image.shape[:2] == scenes.ASPECTS[3][::-1]
    for seed in (0, 1, scenes.SEED):  # generators seeded with one number give other numbers
        plain = np.random.default_rng(seed).random()
        assert np.random.default_rng((seed, 0, 0, 1)).random() != plain


def test_whether_scores_tell_is_the_area_under_the_roc_curve() -> None:
    scores, right = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert roc_area(scores, right) == pytest.approx(
        3.5 / 4
    )  # of four pairs three are in order and one is a tie
    assert roc_area(-scores, right) == pytest.approx(0.5 / 4)
    assert roc_area(scores, np.ones(4, bool)) is None
    areas = telling([judged(0), judged(1)], 1)  # three right: 0.5, 0.25, 0.5; one wrong: 0.25
    assert areas["grounding_score"] == pytest.approx(2.5 / 3)
    assert areas["score"] == 0.5
    assert "0.833" in report_text([judged(0), judged(1), held_out(1.0)], [1])
