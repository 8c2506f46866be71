"""`scripts/agreement` on answers made by hand: what counts as equal, and where the table is written."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from bench.agreement.ask import Written
from bench.agreement.judge import compare, equal_tokens, figures, smallest_iou, without_partner
from bench.agreement.report import BEGIN, END, agreement_table, put, section
from florence2_sam2.server.manifest import Source

FIRST = Written(
    caption=(0, 10, 11, 12, 2),
    grounding=(0, 20, 101, 102, 201, 202, 2),
    labels=("a car", "a car", "a key"),
    boxes=np.array([[0, 0, 100, 100], [200, 0, 300, 100], [0, 200, 10, 210]]),
)


def test_the_same_answer() -> None:
    same = compare(FIRST, FIRST)
    assert (same.caption_equal, same.grounding_equal, same.others) == (True, True, 0)
    assert same.ious == (1, 1, 1)
    assert all(estimate.value == 1 for estimate in figures([same]).values())


def test_nothing_after_the_first_difference_counts() -> None:
    other = replace(FIRST, caption=(0, 10, 99, 12, 2))
    compared = compare(FIRST, other)
    assert not compared.caption_equal
    assert compared.prefix == (True, True, False, False, False)
    assert figures([compared])["caption tokens equal until the first difference"].value == pytest.approx(0.4)
    assert equal_tokens((1, 2, 3), (1, 2)) == equal_tokens((1, 2), (1, 2, 3)) == 2


def test_a_caption_that_goes_on_is_another_one() -> None:
    shorter = compare(FIRST, replace(FIRST, caption=FIRST.caption[:-1]))
    assert not shorter.caption_equal
    assert shorter.prefix == (True, True, True, True, False)
    assert not compare(replace(FIRST, caption=FIRST.caption[:-1]), FIRST).caption_equal


def test_boxes_belong_together_by_label_and_place() -> None:
    moved = replace(
        FIRST,
        grounding=(0, 20, 101, 102, 202, 202, 2),
        labels=("a car", "a key", "a car", "a dog"),
        boxes=np.array([[200, 0, 300, 100], [0, 201, 10, 210], [0, 0, 50, 100], [0, 0, 100, 100]]),
    )
    compared = compare(FIRST, moved)
    assert not compared.grounding_equal
    assert compared.ious == (0.5, 1.0, 0.9)
    assert compared.others == 1
    shares = figures([compared])
    assert shares["boxes equal"].value == pytest.approx(1 / 3)
    assert shares["boxes with IoU ≥ 0.9"].value == pytest.approx(2 / 3)
    assert shares["mean IoU of boxes"].value == pytest.approx(0.8)
    assert smallest_iou([compared]) == 0.5


def test_boxes_without_a_partner() -> None:
    nothing = replace(FIRST, labels=(), boxes=np.zeros((0, 4), int))
    assert compare(FIRST, nothing).ious == (0, 0, 0)
    assert without_partner([compare(FIRST, nothing), compare(nothing, FIRST)]) == (3, 3)
    assert smallest_iou([compare(nothing, nothing)]) == 1


def test_the_section_is_put_in_its_place(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text("# Results\n\nabove\n", encoding="utf-8")
    compared = {1: [compare(FIRST, FIRST)], 3: [compare(FIRST, replace(FIRST, caption=(0, 2)))]}
    table = agreement_table(compared)
    assert "greedy" in table
    assert "3 beams" in table
    first = section(Source("small", "ab" * 32), 7, date(2026, 1, 2), table)
    put(file, first)
    assert file.read_text(encoding="utf-8") == f"# Results\n\nabove\n\n{first}\n"
    assert "small (abababababab), 7 drawn scenes" in first
    assert "(2026-01-02, " in first
    file.write_text(file.read_text(encoding="utf-8") + "\nbelow\n", encoding="utf-8")
    second = section(Source("small", "ab" * 32), 8, date(2026, 1, 3), table)
    put(file, second)
    assert file.read_text(encoding="utf-8") == f"# Results\n\nabove\n\n{second}\n\nbelow\n"


@pytest.mark.parametrize("text", [BEGIN, END, f"{END} {BEGIN}", f"{BEGIN} {BEGIN} {END}"])
def test_broken_markers_are_left_alone(tmp_path: Path, text: str) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="not one pair"):
        put(file, "new")
    assert file.read_text(encoding="utf-8") == text
