"""Odd pictures are segmented as the picture that a viewer shows: the same answer, bit for bit, as its plain RGB PNG."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import shapely
from bad_input import Caller, Reply, answered
from drawn import DISC, HEIGHT, OFF, SQUARE, WIDTH, iou, scene
from picture_files import Pixels, encoded, oriented
from PIL import Image

from florence2_sam2.client import Segmentation
from florence2_sam2.training.scenes import draw_scene

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("watched")]

RGB = np.asarray(scene())
GREY = np.asarray(scene().convert("L"))
# Light from left to right, in steps that a 16-bit picture has below what 8 bits can show.
FINE = np.linspace(0, 255, WIDTH).astype(np.uint16)
BOTH: dict[str, Any] = {**OFF, "options": {"boxes": [DISC, SQUARE], "formats": ["rle"]}}
CAPTION: dict[str, Any] = {**OFF, "caption": "A red ball next to a blue square."}


def grey(values: np.ndarray) -> Pixels:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> Pixels:
    """Colours uint8 [H, W, 3] with alpha uint8 [H, W] in front of white."""
    share = alpha.astype(float)[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def fading() -> Pixels:
    """Alpha [H, W] of every value: clear on the left, solid on the right."""
    return np.broadcast_to(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, WIDTH)).copy()


def sixteen_bit_grey(form: str) -> tuple[bytes, Pixels]:
    return encoded(Image.fromarray(GREY.astype(np.uint16) << 8 | FINE), form), grey(GREY)


def sixteen_bit_colour() -> tuple[bytes, Pixels]:
    wide = RGB[..., ::-1].astype(np.uint16) << 8 | FINE[:, None]
    _, data = cv2.imencode(".png", wide)
    return data.tobytes(), RGB


def one_bit(form: str) -> tuple[bytes, Pixels]:
    bits = GREY > 120
    return encoded(Image.fromarray(bits), form), grey(bits * 255)


def palette(form: str) -> tuple[bytes, Pixels]:
    """The background is the transparent colour."""
    image = scene().quantize(16)
    indices = np.asarray(image)
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[indices]
    clear = int(indices[0, 0])
    shown = np.where((indices == clear)[..., None], np.uint8(255), colours)
    return encoded(image, form, transparency=clear), shown


def grey_alpha() -> tuple[bytes, Pixels]:
    image = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(fading())])
    return encoded(image, "PNG"), on_white(grey(GREY), fading())


def colour_alpha(form: str, **options: Any) -> tuple[bytes, Pixels]:
    pixels = np.dstack([RGB, fading()])
    return encoded(Image.fromarray(pixels), form, **options), on_white(RGB, fading())


def cmyk() -> tuple[bytes, Pixels]:
    return encoded(scene().convert("CMYK"), "TIFF"), RGB


def animated(form: str, **options: Any) -> tuple[bytes, Pixels]:
    """Other things are seen later; the first frame has few colours, so that GIF keeps them."""
    first = scene().quantize(64)
    later = [Image.new("RGB", first.size, colour) for colour in ("lime", "black")]
    frames = {"save_all": True, "append_images": later, "duration": 100}
    kept = first if form == "GIF" else first.convert("RGB")
    return encoded(kept, form, **frames, **options), np.asarray(first.convert("RGB"))


def with_a_film() -> tuple[bytes, Pixels]:
    return encoded(scene(), "PNG") + encoded(Image.new("RGB", (64, 64)), "JPEG") + bytes(1000), RGB


ODD: dict[str, Callable[[], tuple[bytes, Pixels]]] = {
    "grey PNG": lambda: (encoded(Image.fromarray(GREY), "PNG"), grey(GREY)),
    "16-bit grey PNG": functools.partial(sixteen_bit_grey, "PNG"),
    "16-bit grey TIFF": functools.partial(sixteen_bit_grey, "TIFF"),
    "16-bit colour PNG": sixteen_bit_colour,
    "1-bit PNG": functools.partial(one_bit, "PNG"),
    "1-bit TIFF": functools.partial(one_bit, "TIFF"),
    "palette with a transparent colour, PNG": functools.partial(palette, "PNG"),
    "palette with a transparent colour, GIF": functools.partial(palette, "GIF"),
    "LA": grey_alpha,
    "RGBA PNG": functools.partial(colour_alpha, "PNG"),
    "RGBA WebP": functools.partial(colour_alpha, "WEBP", lossless=True, exact=True),
    "CMYK TIFF": cmyk,
    "animated GIF": functools.partial(animated, "GIF"),
    "animated WebP": functools.partial(animated, "WEBP", lossless=True),
    "animated PNG": functools.partial(animated, "PNG"),
    "a film behind the picture": with_a_film,
}


def seen(reply: Reply) -> dict[str, Any]:
    """What the answer says of the picture."""
    return {name: reply.result[name] for name in ("image", "caption", "objects", "filtered", "warnings")}


@pytest.mark.parametrize("name", ODD)
def test_the_answer_is_that_of_what_a_viewer_shows(caller: Caller, name: str) -> None:
    data, shown = ODD[name]()
    plain = encoded(Image.fromarray(shown), "PNG")
    odd = answered(caller.both({"image": data, **BOTH}))
    assert seen(odd) == seen(caller.over_grpc({"image": plain, **BOTH}))
    masks = Segmentation.from_json(odd.result).masks()
    assert masks.any(axis=(1, 2)).all()
    if (shown[..., 0] != shown[..., 1]).any():  # in grey the small checkpoints see less
        assert iou(masks[0], RGB[..., 0] > 200) > 0.8
        assert iou(masks[1], RGB[..., 2] > 200) > 0.8


@pytest.mark.parametrize("name", ["16-bit grey PNG", "RGBA PNG"])
def test_florence2_sees_what_a_viewer_shows(caller: Caller, name: str) -> None:
    data, shown = ODD[name]()
    odd = answered(caller.both({"image": data, **OFF}))
    assert seen(odd) == seen(caller.over_grpc({"image": encoded(Image.fromarray(shown), "PNG"), **OFF}))
    assert odd.result["caption"]


def test_print_colours_of_a_jpeg(caller: Caller) -> None:
    """Lossy, so not bit for bit."""
    odd = answered(caller.both({"image": encoded(scene().convert("CMYK"), "JPEG", quality=95), **BOTH}))
    plain = answered(caller.both({"image": encoded(scene(), "PNG"), **BOTH}))
    for mask, other in zip(*(Segmentation.from_json(r.result).masks() for r in (odd, plain)), strict=True):
        assert iou(mask, other) > 0.95


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1)], ids=lambda size: f"{size[0]}×{size[1]}")
@pytest.mark.parametrize(
    "settings",
    [
        {**OFF},
        {**OFF, "options": {"task": "detection", "tiles": 4, "num_beams": 1}},
        {**OFF, "polygon_precision": 0.0, "options": {"boxes": [[0, 0, 1, 1], [0, 0, 4000, 4000]]}},
        {**OFF, "output_mask": True, "options": {"boxes": [[0, 0, 4000, 4000]], "formats": ["preview"]}},
    ],
    ids=["a caption", "tiles", "boxes", "a mask"],
)
def test_thin_pictures(caller: Caller, size: tuple[int, int], settings: dict[str, Any]) -> None:
    width, height = size
    values = np.linspace(0, 255, width * height).astype(np.uint8).reshape(height, width)
    form, options = ("JPEG", {"quality": 95}) if "options" in settings else ("PNG", {})
    reply = answered(
        caller.both({"image": encoded(Image.fromarray(grey(values)), form, **options), **settings})
    )
    assert reply.result["image"] == {"width": width, "height": height}
    for thing in reply.found:
        x1, y1, x2, y2 = thing["box"]
        assert "reason" in thing or (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height)
    for item in Segmentation.from_json(reply.result).objects:
        assert 1 <= (item.mask_area or 0) <= width * height
        parts = shapely.MultiPolygon([(part.exterior, part.holes) for part in item.polygons])
        assert parts.is_valid
        if settings.get("polygon_precision") == 0:
            assert parts.area == item.mask_area
    if "boxes" in settings.get("options", {}):
        assert len(reply.found) == len(settings["options"]["boxes"])


UPRIGHT = draw_scene(np.random.default_rng(10_020), 320, 240).image
GREEDY: dict[str, Any] = {**OFF, "options": {"num_beams": 1}}
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "TIFF": {}}


@pytest.fixture(scope="module")
def upright(caller: Caller) -> Reply:
    reply = answered(caller.both({"image": encoded(Image.fromarray(UPRIGHT), "PNG"), **GREEDY}))
    assert len(reply.found) >= 3
    return reply


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_of_a_jpeg_have_the_boxes_of_the_upright_picture(
    caller: Caller, upright: Reply, orientation: int
) -> None:
    """Turned pixels are coded otherwise, so that a level or two differ: labels are the same, boxes within a pixel."""
    data = oriented(UPRIGHT, orientation, "JPEG", quality=98, subsampling=0)
    turned = answered(caller.both({"image": data, **GREEDY}))
    assert turned.result["image"] == upright.result["image"]
    assert turned.result["caption"] == upright.result["caption"]
    assert [thing["label"] for thing in turned.found] == [thing["label"] for thing in upright.found]
    for thing, other in zip(turned.found, upright.found, strict=True):
        assert np.abs(np.subtract(thing["box"], other["box"])).max() <= 1, (thing, other)


@pytest.mark.parametrize(
    ("form", "orientation"),
    [
        pytest.param(form, number, marks=() if (form, number) == ("PNG", 6) else pytest.mark.long)
        for form in LOSSLESS
        for number in range(1, 9)
    ],
)
def test_orientations_without_loss_have_its_answer(
    caller: Caller, upright: Reply, form: str, orientation: int
) -> None:
    data = oriented(UPRIGHT, orientation, form, **LOSSLESS[form])
    assert seen(answered(caller.both({"image": data, **GREEDY}))) == seen(upright)
