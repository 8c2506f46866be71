"""Every setting of `segment` on a real server: what it changes, and where exactly its edge lies."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from drawn import DISC, HEIGHT, OFF, SCENE, SQUARE, WIDTH, iou, raw, segment, text
from PIL import Image
from pycocotools import mask as coco_mask

from florence2_sam2.client import Segmentation
from florence2_sam2.server.launch.embedded import EmbeddedServer

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def plain(server: EmbeddedServer) -> Segmentation:
    """Both things by their boxes, every pixel edge, nothing filtered."""
    return segment(server, boxes=[DISC, SQUARE], polygon_precision=0, **OFF)


def reasons(result: Segmentation) -> list[str]:
    return [item.reason for item in result.filtered]


def test_an_automatic_caption_is_written_and_grounded(server: EmbeddedServer) -> None:
    result = segment(server)
    assert result.caption
    assert result.caption_source == "florence2"
    assert result.parameters | {"area_threshold": 0.3, "confidence_threshold": 0.5} == result.parameters
    assert result.parameters["nms_threshold"] == 0.5
    assert result.parameters["polygon_precision"] == 0.001
    assert result.parameters["output_mask"] is False
    assert set(result.models) == {"florence2", "sam2"}
    said = {"checkpoint", "sha256", "precision"}
    assert set(result.models["florence2"]) == said | {"decoder_weights"}
    assert set(result.models["sam2"]) == said
    assert list(result.timings_ms) == ["decode", "caption", "ground", "embed", "masks", "postprocess"]
    assert min(result.timings_ms["caption"], result.timings_ms["ground"]) > 0


def test_a_custom_caption_is_grounded_instead(server: EmbeddedServer) -> None:
    result = segment(server, caption="  A red ball next to a blue square. ")
    assert (result.caption, result.caption_source) == (
        "A red ball next to a blue square.",
        "caller",
    )
    assert result.timings_ms["caption"] == 0
    found = [item.label for item in (*result.objects, *result.filtered)]
    assert found
    assert all(label.lower() in (result.caption or "").lower() for label in found)


@pytest.mark.parametrize("caption", ["", "   ", "\n\t"])
def test_a_blank_caption_is_none(server: EmbeddedServer, caption: str) -> None:
    assert segment(server, caption=caption).caption_source == "florence2"


def test_phrases_are_grounded_as_they_are(server: EmbeddedServer) -> None:
    result = segment(server, phrases=["a red ball"], **OFF)
    assert (result.caption, result.caption_source) == ("", "phrases")
    assert result.parameters["phrases"] == ["a red ball"]


def test_detection_needs_no_caption(server: EmbeddedServer) -> None:
    result = segment(server, task="detection", **OFF)
    assert (result.caption, result.caption_source) == ("", "none")
    assert result.timings_ms["caption"] == 0


def test_own_boxes_skip_florence2(plain: Segmentation) -> None:
    assert [item.box for item in plain.objects] == [tuple(DISC), tuple(SQUARE)]
    assert (plain.caption, plain.caption_source) == ("", "none")
    assert plain.timings_ms["caption"] == plain.timings_ms["ground"] == 0
    disc, square = plain.masks()
    image = np.asarray(Image.open(io.BytesIO(SCENE))).astype(int)
    assert iou(disc, image[..., 0] > 200) > 0.8
    assert iou(square, (image[..., 2] > 200)) > 0.8


def test_no_boxes_at_all_is_nothing_found(server: EmbeddedServer) -> None:
    result = segment(server, boxes=[])
    assert (result.objects, result.filtered) == ((), ())
    assert not result.mask().any()


@pytest.mark.parametrize(
    ("box", "threshold", "stays"),
    [
        ([0, 0, 102, 100], 0.3, False),  # 0.51 > 0.3
        ([0, 0, 102, 100], 0.51, True),
        ([0, 0, 102, 100], 0.5, False),
        ([0, 0, 60, 100], 0.3, True),  # equal stays
        ([0, 0, 140, 100], 0.7, True),  # FP32 0.7 is below 0.7
        ([0, 0, 60, 100], None, True),  # the default is 0.3
        ([0, 0, 61, 100], None, False),
        ([0, 0, 200, 100], 1, True),  # off
        ([0, 0, 1, 1], 0, False),
    ],
)
def test_area_threshold(server: EmbeddedServer, box: list[int], threshold: float | None, stays: bool) -> None:
    settings = OFF | {"area_threshold": threshold}
    result = segment(server, boxes=[box], **settings)
    ratio = (box[2] - box[0]) * (box[3] - box[1]) / (WIDTH * HEIGHT)
    if not stays:
        assert reasons(result) == ["area"]
        assert result.filtered[0].score is None
        assert (result.timings_ms["embed"], result.timings_ms["masks"]) == (0, 0)  # SAM2 has not run
        assert result.filtered[0].area_ratio == pytest.approx(ratio)
        assert result.filtered[0].box == tuple(box)
    else:
        assert "area" not in reasons(result)


def scores(server: EmbeddedServer, **settings: Any) -> np.ndarray:
    inputs = {"image": text(SCENE), "options": text('{"boxes": [[20, 20, 80, 80], [120, 30, 160, 70]]}')}
    for name, value in (OFF | settings).items():
        inputs[name] = ("FP32", np.array([value], np.float32))
    return np.asarray(raw(server, inputs, ["scores"]).as_numpy("scores"))


def test_confidence_threshold(server: EmbeddedServer) -> None:
    both = scores(server)
    assert both.dtype == np.float32
    assert both.shape == (2,)
    low, high = np.sort(both)
    assert 0 < low < high <= 1
    assert len(scores(server, confidence_threshold=low)) == 2  # equal stays
    assert len(scores(server, confidence_threshold=np.nextafter(low, np.float32(1)))) == 1
    assert len(scores(server, confidence_threshold=1)) == 0
    result = segment(server, boxes=[DISC, SQUARE], **OFF | {"confidence_threshold": 1})
    assert reasons(result) == ["confidence", "confidence"]
    assert [item.score for item in result.filtered] == pytest.approx(both, abs=1e-6)


@pytest.mark.parametrize(("threshold", "count"), [(0.5, 2), (0.49, 1), (0.51, 2), (0, 1), (1, 2), (None, 2)])
def test_nms_threshold(server: EmbeddedServer, threshold: float | None, count: int) -> None:
    """Boxes that share exactly half of their union."""
    result = segment(
        server, boxes=[[20, 20, 80, 80], [40, 20, 100, 80]], **OFF | {"nms_threshold": threshold}
    )
    assert len(result.objects) == count
    if count == 1:
        (lost,) = result.filtered
        assert (lost.reason, lost.suppressed_by) == ("nms", 0)
        assert (lost.score or 0) <= (result.objects[0].score or 0)


def test_equal_boxes_keep_the_first(server: EmbeddedServer) -> None:
    result = segment(server, boxes=[DISC, DISC, DISC], **OFF | {"nms_threshold": 0.9})
    assert len(result.objects) == 1
    assert reasons(result) == ["nms", "nms"]


def test_nms_forms(server: EmbeddedServer) -> None:
    """Two boxes around the same thing with a small IoU have the same mask, or one within the other."""
    boxes = [[10, 10, 90, 90], DISC]  # IoU of the boxes 0.5625

    def kept(form: str, threshold: float) -> int:
        return len(segment(server, boxes=boxes, nms=form, **OFF | {"nms_threshold": threshold}).objects)

    assert kept("box", 0.57) == 2
    assert kept("box", 0.56) == 1
    both = segment(server, boxes=boxes, polygon_precision=0, **OFF).masks()
    overlap = iou(*both)
    contained = (both[0] & both[1]).sum() / min(both.sum(axis=(1, 2)))
    for form, value in (("mask", overlap), ("containment", contained)):
        if value < 1:
            assert kept(form, min(value + 0.001, 1)) == 2
        assert kept(form, value - 0.001) == 1


def test_boxes_without_area_are_listed_not_lost(server: EmbeddedServer) -> None:
    boxes = [[10, 10, 10, 50], [50, 50, 20, 80], [300, 10, 350, 50], [-20, -20, 40, 40]]
    result = segment(server, boxes=boxes, **OFF)
    assert reasons(result)[:3] == ["degenerate_box"] * 3
    inside = [*result.objects, *result.filtered[3:]]
    assert [item.box for item in inside] == [(0, 0, 40, 40)]


def test_polygons_at_zero_are_the_mask(server: EmbeddedServer, plain: Segmentation) -> None:
    exact = segment(server, boxes=[DISC, SQUARE], formats=["rle", "masks"], polygon_precision=0, **OFF)
    assert np.array_equal(exact.masks(), plain.masks())
    for item, shown, mask in zip(exact.objects, exact.raw["objects"], exact.masks(), strict=True):
        assert item.rle is not None
        assert item.rle["size"] == [HEIGHT, WIDTH]
        rle = {"size": item.rle["size"], "counts": str(item.rle["counts"]).encode()}
        assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
        png = base64.b64decode(shown["mask"].removeprefix("data:image/png;base64,"))
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))) > 0, mask)
        assert item.mask_area == mask.sum()
        for polygon in item.polygons:
            assert all(x == int(x) and y == int(y) for x, y in polygon.exterior)


def test_polygon_precision_trades_points_for_detail(server: EmbeddedServer, plain: Segmentation) -> None:
    counts = []
    for precision in (0, 0.0005, 0.001, 0.01, 0.1, 100):
        result = segment(server, boxes=[DISC], polygon_precision=precision, **OFF)
        (item,) = result.objects
        counts.append(sum(len(polygon.exterior) for polygon in item.polygons))
        assert all(len(polygon.exterior) >= 3 for polygon in item.polygons)
        assert item.mask_area == plain.objects[0].mask_area
        if precision <= 0.001:
            assert iou(result.mask(), plain.masks()[0]) >= 0.95
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 4 * counts[-1]


def test_one_mask_instead_of_polygons(server: EmbeddedServer, plain: Segmentation) -> None:
    result = segment(server, boxes=[DISC, SQUARE], output_mask=True, **OFF)
    assert [item.polygons for item in result.objects] == [(), ()]
    assert all("polygons" not in item for item in result.raw["objects"])
    assert result.mask_png is not None
    assert (result.mask_url or "").startswith("data:image/png;base64,")
    assert base64.b64decode((result.mask_url or "").partition(",")[2]) == result.mask_png
    with Image.open(io.BytesIO(result.mask_png)) as image:
        assert (image.mode, image.size, image.format) == ("L", (WIDTH, HEIGHT), "PNG")
        assert set(np.unique(np.asarray(image))) == {0, 255}
    assert np.array_equal(result.mask(), plain.masks().any(axis=0))
    inverted = segment(server, boxes=[DISC, SQUARE], output_mask=True, invert_mask=True, **OFF)
    assert np.array_equal(inverted.mask(), ~result.mask())


def test_a_mask_of_nothing_is_black(server: EmbeddedServer) -> None:
    result = segment(server, boxes=[[0, 0, 200, 100]], output_mask=True)
    assert reasons(result) == ["area"]
    assert result.mask().shape == (HEIGHT, WIDTH)
    assert not result.mask().any()


def test_without_output_mask_there_is_no_mask(server: EmbeddedServer, plain: Segmentation) -> None:
    assert "mask_url" not in plain.raw
    answer = raw(server, {"image": text(SCENE), "options": text('{"boxes": []}')})
    assert answer.as_numpy("mask_png").tolist() == [b""]


def test_array_outputs_repeat_the_objects(server: EmbeddedServer) -> None:
    answer = raw(server, {"image": text(SCENE), "options": text('{"boxes": [[20, 20, 80, 80]]}')})
    assert answer.as_numpy("boxes").tolist() == [DISC]
    assert answer.as_numpy("scores").shape == (1,)
    assert answer.as_numpy("labels").tolist() == [b"object"]
    nothing = raw(server, {"image": text(SCENE), "options": text('{"boxes": []}')})
    assert nothing.as_numpy("boxes").shape == (0, 4)
    assert nothing.as_numpy("scores").shape == (0,)
    assert nothing.as_numpy("labels").shape == (0,)


def test_coco_and_geojson_and_preview(server: EmbeddedServer, plain: Segmentation) -> None:
    formats = ["coco", "geojson", "preview"]
    result = segment(server, boxes=[DISC, SQUARE], formats=formats, polygon_precision=0, **OFF)
    coco = result.raw["coco"]
    assert coco["images"] == [{"id": 1, "width": WIDTH, "height": HEIGHT}]
    for row, item, mask in zip(coco["annotations"], result.objects, plain.masks(), strict=True):
        rle = {"size": row["segmentation"]["size"], "counts": row["segmentation"]["counts"].encode()}
        assert np.array_equal(coco_mask.decode(rle).astype(bool), mask)
        x1, y1, x2, y2 = item.box
        assert row["bbox"] == [x1, y1, x2 - x1, y2 - y1]
        assert row["area"] == item.mask_area
        assert row["category_id"] in [category["id"] for category in coco["categories"]]
    features = result.raw["geojson"]["features"]
    assert [feature["properties"]["label"] for feature in features] == ["object", "object"]
    for feature, item in zip(features, result.objects, strict=True):
        assert len(feature["geometry"]["coordinates"]) == len(item.polygons)
        for rings in feature["geometry"]["coordinates"]:
            assert all(ring[0] == ring[-1] for ring in rings)
    preview = base64.b64decode(result.raw["preview"].removeprefix("data:image/png;base64,"))
    assert Image.open(io.BytesIO(preview)).size == (WIDTH, HEIGHT)


def test_the_compact_view_is_index_aligned(server: EmbeddedServer, plain: Segmentation) -> None:
    result = segment(server, boxes=[DISC, SQUARE], view="compact", polygon_precision=0, **OFF)
    lists = [result.raw[name] for name in ("polygons", "labels", "boxes", "scores")]
    assert len({len(values) for values in lists}) == 1
    assert len(lists[0]) == sum(len(item.polygons) for item in plain.objects)
    assert "objects" not in result.raw
    assert np.array_equal(result.mask(), plain.mask())
    masked = segment(server, boxes=[DISC, SQUARE], view="compact", output_mask=True, **OFF)
    assert "polygons" not in masked.raw
    assert masked.raw["labels"] == ["object", "object"]
    assert np.array_equal(masked.mask(), plain.mask())


def test_normalized_coordinates_both_ways(server: EmbeddedServer, plain: Segmentation) -> None:
    size = np.array([WIDTH, HEIGHT] * 2)
    boxes = (np.array([DISC, SQUARE]) / size).tolist()
    result = segment(server, boxes=boxes, normalized=True, polygon_precision=0, **OFF)
    assert np.allclose([item.box for item in result.objects], boxes, atol=1e-6)
    assert np.array_equal(result.masks(), plain.masks())
    for item in result.objects:
        assert all(
            0 <= value <= 1 for polygon in item.polygons for point in polygon.exterior for value in point
        )


def test_beams_and_length_reach_the_decoder(server: EmbeddedServer) -> None:
    assert segment(server, num_beams=1).parameters["num_beams"] == 1
    short = segment(server, max_new_tokens=4)
    assert len(short.caption or "") < len(segment(server).caption or "")


def test_coordinates_are_of_the_upright_picture(server: EmbeddedServer, plain: Segmentation) -> None:
    turned = Image.open(io.BytesIO(SCENE)).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 270 degrees to see it upright
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    result = segment(server, buffer.getvalue(), boxes=[DISC, SQUARE], polygon_precision=0, **OFF)
    assert (result.width, result.height) == (WIDTH, HEIGHT)
    assert np.array_equal(result.masks(), plain.masks())
