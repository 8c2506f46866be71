"""A server on the fp16 export finds the objects that the packaged export, in fp32, finds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from drawn import iou, segment
from exports import Exported

from florence2_sam2.postprocess.rle import decode_rle
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.training.scenes import draw_scene

pytestmark = [pytest.mark.server, pytest.mark.parity, pytest.mark.long]


def test_the_same_objects(server: EmbeddedServer, exports: Callable[[str], Exported]) -> None:
    rgb = draw_scene(np.random.default_rng(41)).image
    wide = segment(server, rgb, area_threshold=1, formats=["rle"])
    with EmbeddedServer(exports("fp16").repository) as other:
        narrow = segment(other, rgb, area_threshold=1, formats=["rle"])
    assert narrow.models["sam2"]["precision"] == "fp16"
    assert wide.models["sam2"]["precision"] == "fp32"
    assert narrow.caption == wide.caption
    assert [item.label for item in narrow.objects] == [item.label for item in wide.objects]
    assert wide.objects
    for one, rounded in zip(wide.objects, narrow.objects, strict=True):
        np.testing.assert_allclose(rounded.box, one.box, atol=0.002 * max(rgb.shape))  # two location bins
        assert rounded.score == pytest.approx(one.score, abs=0.01)
        assert iou(decode_rle(one.rle or {}), decode_rle(rounded.rle or {})) > 0.98
