"""`timings_ms` covers the making of the answer too: outlines of ragged masks can take longer than the models."""

from __future__ import annotations

import numpy as np

from florence2_sam2.postprocess import CroppedMask
from florence2_sam2.server.segment.answer import MaskUrl, build_answer
from florence2_sam2.server.segment.candidates import Candidate
from florence2_sam2.server.segment.models import Picture
from florence2_sam2.server.segment.outcome import Outcome
from florence2_sam2.server.segment.request import parse_request
from florence2_sam2.server.segment.shapes import Shape
from florence2_sam2.server.settings import Settings


def answer(side: int) -> dict:
    bits = np.indices((side, side)).sum(axis=0) % 2 == 0  # every other pixel is a part of its own
    mask = CroppedMask(bits, 0, 0, side, side)
    outcome = Outcome(
        side, side, "", "none", [Candidate("dots", (0, 0, side, side), 1.0, 0.9, shape=Shape(mask))], []
    )
    request = parse_request({"image": b"x"}, Settings())
    picture = Picture.of(np.zeros((side, side, 3), np.uint8), b"x")
    return build_answer(outcome, request, picture, {}, lambda png: MaskUrl("")).result


def test_more_outlines_take_more_time() -> None:
    few, many = answer(4), answer(64)
    assert len(many["objects"][0]["polygons"]) == 64 * 64 // 2
    assert 0 < few["timings_ms"]["postprocess"] < many["timings_ms"]["postprocess"]
    assert {name for name, value in many["timings_ms"].items() if value} == {"postprocess"}
