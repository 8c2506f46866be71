"""`scripts/quality` measures the server that users call: a few scenes, and truths that are wrong on purpose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bench.quality import ask, scenes
from bench.quality.judge import judge_answer, judge_grounding, judge_masks
from bench.quality.report import report_text, rows
from bench.quality.run import Judged, judge_all
from bench.quality.sheet import contact_sheet, worst
from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.scenes import Scene

pytestmark = pytest.mark.server

COUNT, UNSEEN = 6, 2


@pytest.fixture(scope="module")
def judged(server: EmbeddedServer) -> list[Judged]:
    return judge_all(server.grpc_address, COUNT, UNSEEN, [1, 3], progress=lambda line: None)


def test_every_scene_is_judged_in_every_way(judged: list[Judged]) -> None:
    assert [(j.number, j.held_out) for j in judged] == [(n, False) for n in range(6)] + [(0, True), (1, True)]
    for one in judged:
        truth = scenes.draw(one.number, one.held_out)
        assert one.caption == truth.caption
        assert set(one.grounding) == {1, 3}
        assert len(one.grounding[1]) == len(one.grounding[3]) == len(truth.objects)
        if not one.held_out:
            assert len(one.masks) == len(one.score_errors) == len(truth.objects)
            things = sum(thing.kind != "table" for thing in truth.objects)
            assert len(one.end_to_end[3].found) == things  # tables are over the area threshold
            assert one.answers[1]["caption_source"] == "florence2"
            assert one.answers[1]["parameters"]["num_beams"] == 1
            assert one.answers[3]["parameters"]["num_beams"] == 3
    for beams in (1, 3):
        table = rows(judged, beams)
        assert len(table) == 8
        assert table[0].measured.count == sum(len(j.masks) for j in judged)
        assert table[4].measured.value > 0.3, "SAM2 does not follow true boxes"
    assert report_text(judged, [1, 3])
    assert contact_sheet(worst(judged, 3, 4), 3).height > 600


def test_the_same_scenes_give_the_same_figures(server: EmbeddedServer, judged: list[Judged]) -> None:
    again = judge_all(server.grpc_address, 2, 1, [1, 3], progress=lambda line: None)
    by_job = {(j.number, j.held_out): j for j in judged}
    for one in again:
        other = by_job[one.number, one.held_out]
        assert one.grounding == other.grounding
        assert one.end_to_end == other.end_to_end


def elsewhere(scene: Scene) -> Scene:
    """The scene with every truth mirrored: left and right are exchanged, the picture is not."""
    width = scene.image.shape[1]
    moved = [
        replace(
            thing,
            box=np.array(
                [width - thing.box[2], thing.box[1], width - thing.box[0], thing.box[3]], np.float32
            ),
            mask=thing.mask[:, ::-1].copy(),
        )
        for thing in scene.objects
    ]
    return replace(scene, objects=moved)


def test_a_wrong_truth_lowers_the_figures(server: EmbeddedServer) -> None:
    right, wrong = [], []
    with Segmenter(server.grpc_address) as segmenter:
        for number in range(COUNT):
            truth = scenes.draw(number)
            lie = elsewhere(truth)
            boxes = ask.grounded(segmenter, truth, 1)
            masks, scores = ask.masks_of_boxes(segmenter, truth)
            answer = ask.segmented(segmenter, truth, 1)
            for scene, tally in ((truth, right), (lie, wrong)):
                tally += [("boxes", m.value) for m in judge_grounding(scene, boxes)]
                tally += [("masks", m.value) for m in judge_masks(scene, masks, scores)[0]]
                tally += [("found", m.value) for m in judge_answer(scene, answer).found]
    for what in ("boxes", "masks", "found"):
        truly, falsely = (np.mean([v for name, v in tally if name == what]) for tally in (right, wrong))
        assert falsely < truly or truly == falsely == 0, what
    assert np.mean([v for name, v in wrong if name == "masks"]) < 0.6 * np.mean(
        [v for name, v in right if name == "masks"]
    )
