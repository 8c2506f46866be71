"""What the client writes for other tools is what those tools read: pycocotools, shapely, supervision."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pytest
import shapely
import shapely.geometry
import supervision
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco_masks
from pycocotools.coco import COCO

from florence2_sam2.client import Segmentation
from florence2_sam2.client.formats import coco
from florence2_sam2.postprocess import CroppedMask, encode_rle, mask_to_polygons

HEIGHT, WIDTH = 9, 13


def answer(masks: list[np.ndarray], rle: bool = True, normalized: bool = False) -> Segmentation:
    """A server's answer whose objects have these masks, exactly."""
    scale = np.array([WIDTH, HEIGHT]) if normalized else np.ones(2)
    objects: list[dict[str, Any]] = []
    for index, mask in enumerate(masks):
        cropped = CroppedMask.from_full(mask)
        parts = [
            {"exterior": (p.exterior / scale).tolist(), "holes": [(h / scale).tolist() for h in p.holes]}
            for p in mask_to_polygons(cropped, 0)
        ]
        box = (np.array(cropped.box(), float).reshape(2, 2) / scale).ravel().tolist()
        item = {
            "label": f"thing {index % 2}",
            "box": box,
            "area_ratio": 0.1,
            "score": 0.5 + index / 10,
            "mask_area": int(mask.sum()),
            "polygons": parts,
        }
        objects.append(item | ({"rle": encode_rle(cropped)} if rle else {}))
    body = {
        "image": {"width": WIDTH, "height": HEIGHT},
        "objects": objects,
        "parameters": {"normalized": normalized},
    }
    return Segmentation.from_json(body)


one_mask = arrays.arrays(bool, (HEIGHT, WIDTH)).filter(np.any)
some_masks = st.lists(one_mask, max_size=4)


@given(some_masks, st.booleans(), st.booleans())
def test_every_way_to_a_mask_is_the_same(masks: list[np.ndarray], rle: bool, normalized: bool) -> None:
    result = answer(masks, rle, normalized)
    assert np.array_equal(result.masks(), np.array(masks).reshape(-1, HEIGHT, WIDTH))
    for item, mask in zip(result.objects, masks, strict=True):
        cropped = item.cropped_mask()
        h, w = cropped.bits.shape
        assert np.array_equal(cropped.bits, mask[cropped.y : cropped.y + h, cropped.x : cropped.x + w])
        assert cropped.bits.sum() == mask.sum()
        edges = [cropped.bits[0], cropped.bits[-1], cropped.bits[:, 0], cropped.bits[:, -1]]
        assert all(edge.any() for edge in edges)


@given(some_masks, st.booleans(), st.booleans())
def test_pycocotools_reads_the_masks(masks: list[np.ndarray], rle: bool, normalized: bool) -> None:
    document = json.loads(json.dumps(answer(masks, rle, normalized).to_coco(7, "a.jpg")))
    assert document["images"] == [{"id": 7, "width": WIDTH, "height": HEIGHT, "file_name": "a.jpg"}]
    dataset = COCO()
    dataset.dataset = document
    dataset.createIndex()
    read = dataset.loadAnns(dataset.getAnnIds(imgIds=[7]))
    assert len(read) == len(masks)
    for annotation, mask in zip(read, masks, strict=True):
        assert np.array_equal(dataset.annToMask(annotation).astype(bool), mask)
        assert annotation["area"] == coco_masks.area(annotation["segmentation"]) == mask.sum()
        # boxes are tight here, and COCO's own box of a mask is x, y, width, height
        np.testing.assert_allclose(
            annotation["bbox"], coco_masks.toBbox(annotation["segmentation"]), atol=1e-9
        )
    names = {category["id"]: category["name"] for category in document["categories"]}
    assert [names[a["category_id"]] for a in read] == [f"thing {i % 2}" for i in range(len(masks))]


def test_pictures_share_a_document() -> None:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:5, 3:7] = True
    document = coco([answer([mask]), answer([]), answer([mask, mask])], file_names=["a", "b", "c"])
    assert [image["file_name"] for image in document["images"]] == ["a", "b", "c"]
    assert [(a["id"], a["image_id"], a["category_id"]) for a in document["annotations"]] == [
        (1, 1, 1),
        (2, 3, 1),
        (3, 3, 2),
    ]


@given(some_masks, st.booleans())
def test_shapely_reads_the_polygons(masks: list[np.ndarray], normalized: bool) -> None:
    document = json.loads(json.dumps(answer(masks, normalized=normalized).to_geojson()))
    assert document["type"] == "FeatureCollection"
    scale = (WIDTH, HEIGHT) if normalized else (1, 1)
    ys, xs = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    for index, (feature, mask) in enumerate(zip(document["features"], masks, strict=True)):
        shape = shapely.geometry.shape(feature["geometry"])
        assert shape.is_valid
        assert shape.area * scale[0] * scale[1] == pytest.approx(mask.sum())
        assert np.array_equal(shapely.contains_xy(shape, xs / scale[0], ys / scale[1]), mask)
        assert feature["properties"] == {
            "label": f"thing {index % 2}",
            "grounding_score": None,
            "score": 0.5 + index / 10,
        }


@given(some_masks, st.booleans())
def test_supervision_takes_the_objects(masks: list[np.ndarray], normalized: bool) -> None:
    detections = answer(masks, normalized=normalized).to_supervision()
    assert isinstance(detections, supervision.Detections)
    assert len(detections) == len(masks)
    if not masks:
        return
    assert np.array_equal(detections.mask, np.array(masks))
    np.testing.assert_allclose(detections.area, [mask.sum() for mask in masks])
    tight = supervision.mask_to_xyxy(np.array(masks)) + np.array(
        [0, 0, 1, 1]
    )  # its boxes end in the last pixel
    np.testing.assert_allclose(detections.xyxy, tight, atol=1e-5)
    assert detections["class_name"].tolist() == [f"thing {i % 2}" for i in range(len(masks))]
    assert detections.class_id.tolist() == [i % 2 for i in range(len(masks))]
    np.testing.assert_allclose(detections.confidence, [0.5 + i / 10 for i in range(len(masks))])
    # and its own tools go on with them
    scene = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    drawn = supervision.MaskAnnotator(opacity=1).annotate(scene.copy(), detections)
    assert np.array_equal(drawn.any(axis=-1), np.array(masks).any(axis=0))


def test_without_supervision_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'florence2-sam2\[supervision\]'"):
        answer([]).to_supervision()


def test_one_mask_has_no_objects_to_write() -> None:
    body = {
        "image": {"width": 4, "height": 4},
        "objects": [{"label": "a", "box": [0, 0, 1, 1], "area_ratio": 0.1, "score": 0.9, "mask_area": 1}],
        "mask_url": "https://masks/1.png",
    }
    result = Segmentation.from_json(body)
    for write in (result.to_coco, result.to_geojson, result.to_supervision, result.masks):
        with pytest.raises(ValueError, match="one mask"):
            write()


def test_a_cutout_is_the_object_and_nothing_else() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[2:6, 4:9] = True
    mask[3:5, 5:7] = False
    result = answer([~mask, mask])
    cut = result.cutout(1, pixels)
    assert (cut.mode, cut.size) == ("RGBA", (5, 4))
    red, green, blue, alpha = np.moveaxis(np.asarray(cut), -1, 0)
    assert np.array_equal(alpha, mask[2:6, 4:9] * 255)
    assert np.array_equal(np.stack([red, green, blue], -1), pixels[2:6, 4:9])
    assert np.array_equal(
        np.asarray(result.cutout(result.objects[1], Image.fromarray(pixels))), np.asarray(cut)
    )
    with pytest.raises(IndexError):
        result.cutout(2, pixels)
    with pytest.raises(ValueError, match="give it as `image`"):
        result.cutout(0)
    with pytest.raises(ValueError, match="13×9"):
        result.cutout(0, pixels[:5])


def test_a_part_has_its_own_mask() -> None:
    """Under the compact view each part stands alone, with the run lengths of the whole object."""
    whole = np.zeros((HEIGHT, WIDTH), bool)
    whole[1:3, 1:3] = whole[5:8, 6:9] = True
    parts = mask_to_polygons(CroppedMask.from_full(whole), 0)
    body = {
        "image": {"width": WIDTH, "height": HEIGHT},
        "labels": ["a", "a"],
        "boxes": [[1, 1, 9, 8]] * 2,
        "scores": [0.9, 0.9],
        "polygons": [part.exterior.tolist() for part in parts],
        "holes": [[], []],
        "rles": [encode_rle(CroppedMask.from_full(whole))] * 2,
    }
    result = Segmentation.from_json(body)
    assert sorted(int(m.sum()) for m in result.masks()) == [4, 9]
    assert np.array_equal(result.mask(), whole)
    areas = [(a["area"], coco_masks.area(a["segmentation"])) for a in result.to_coco()["annotations"]]
    assert sorted(areas) == [(4, 4), (9, 9)]
