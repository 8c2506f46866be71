"""Encoded pictures to pixels, and masks to encoded pictures."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs import containers, png
from florence2_sam2.server.settings import Settings

FORMATS = "JPEG, PNG, WebP, BMP, GIF or TIFF"

# The plugins are called by name: `Image.open` would warn and raise at Pillow's own, process-wide size limit.
_PLUGINS: dict[containers.Format, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
}

# What Pillow's plugins let through on damaged files; several of them are Python code that trusts its input.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RuntimeError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TURNED = (5, 6, 7, 8)  # width and height change places


def decode_picture(data: bytes, settings: Settings, field: str = "image") -> NDArray[np.uint8]:
    """Pixels uint8 [H, W, 3], RGB, upright: the picture as a viewer shows it.

    The orientation of EXIF is applied, of several frames or pages the first is taken, what is transparent is
    put on white, 16-bit samples keep their upper 8 bits. Colour profiles are ignored, as the models' own
    processors do. The size is checked from the header, before anything is decoded.

    Args:
        data: the file, in one of `FORMATS`.
        settings: for its limits `max_image_bytes`, `max_pixels` and `max_side`.
        field: the request's field, for messages.

    Returns:
        An array that may be read-only.

    Raises:
        InvalidRequest: empty, too large, of another format, damaged, cut off, or of samples that 8 bits
            cannot show.
    """
    return _decode(data, settings, field, None)[0]


def decode_reduced(
    data: bytes, settings: Settings, field: str, at_least: tuple[int, int]
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """As `decode_picture`, but a JPEG is decoded at 1/2, 1/4 or 1/8 of its size: the smallest that has `at_least` that
    width and height. libjpeg leaves out what the smaller picture does not need.

    Returns:
        The pixels, and the picture's size, width and height, which they may have a part of.
    """
    return _decode(data, settings, field, at_least)


def _decode(
    data: bytes, settings: Settings, field: str, at_least: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    def check(width: int, height: int) -> None:
        if width < 1 or height < 1:
            raise InvalidRequest(field, f"the picture has no pixels: its header says {width}×{height}")
        if width * height > settings.max_pixels or max(width, height) > settings.max_side:
            raise InvalidRequest(
                field,
                f"the picture has {width}×{height} pixels; this server takes up to {settings.max_pixels} "
                f"in all and {settings.max_side} a side: scale it down",
            )

    if not data:
        raise InvalidRequest(field, f"is empty; send the bytes of a {FORMATS} file")
    if len(data) > settings.max_image_bytes:
        raise InvalidRequest(
            field, f"the file has {len(data)} bytes; this server takes up to {settings.max_image_bytes}"
        )
    try:
        picture = containers.read(data, check)
    except containers.DamagedPicture as error:
        raise InvalidRequest(field, f"the picture {error}") from None
    if picture is None:
        _refuse_format(data, field)
    try:
        with _PLUGINS[picture.format](io.BytesIO(picture.data)) as image:
            if image.size != (picture.width, picture.height):
                raise ValueError("header and decoder disagree on the size")
            turned = picture.orientation in _TURNED
            if at_least is not None and picture.format == "JPEG":
                image.draft(None, at_least[::-1] if turned else at_least)
            image.load()
            if picture.format == "PNG" and _may_lack_rows(image) and not png.has_all_rows(picture.data):
                raise ValueError("pixel data ends early")
            rgb = _to_rgb(image)
            if picture.orientation in _UPRIGHT:
                rgb = rgb.transpose(_UPRIGHT[picture.orientation])
    except _DECODER_ERRORS:
        raise InvalidRequest(
            field,
            f"the picture is a {picture.format} that is damaged or cut off: its pixels cannot be decoded",
        ) from None
    size = (picture.height, picture.width) if turned else (picture.width, picture.height)
    return np.asarray(rgb), size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        return _wide_grey_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        if image.mode == "La":
            image = image.convert("LA")
        with_alpha = image.convert("RGBA")
        if with_alpha.getchannel("A").getextrema()[0] == 255:
            return with_alpha.convert("RGB")
        white = Image.new("RGB", image.size, "white")
        white.paste(with_alpha, mask=with_alpha)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")


def _may_lack_rows(image: Image.Image) -> bool:
    """Whether a PNG may have had too little data: what is missing stays 0, and without interlace it is at the end."""
    last = image.crop((0, image.height - 1, image.width, image.height))
    return bool(image.info.get("interlace")) or last.getbbox() is None


def _wide_grey_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit grey, which Pillow holds in one of the modes I;16…, or (PNG, before Pillow 11) in mode I."""
    wide = np.asarray(image)
    grey = (wide >> 8).astype(np.uint8)
    if isinstance(level := image.info.get("transparency"), int):
        grey = np.where(wide == level, np.uint8(255), grey)
    return Image.fromarray(grey).convert("RGB")


def _refuse_format(data: bytes, field: str) -> NoReturn:
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<body")):
        problem = "is a web page, not a picture"
    elif start.startswith((b"<svg", b"<?xml")):
        problem = "is an SVG or XML file, not a picture of pixels"
    elif data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif"):
        problem = "is a HEIC or AVIF picture, which is not supported"
    elif start.startswith(b"data:"):
        problem = "is a data URL; that belongs into image_url"
    elif data.startswith((b"/9j/", b"iVBORw0KGgo", b"UklGR", b"R0lGOD", b"Qk", b"SUkq", b"TU0A")):
        problem = "is base64 text, not the bytes it stands for; decode it first"
    else:
        problem = "is no picture that is known here"
    raise InvalidRequest(field, f"{problem}; send a {FORMATS} file")


def encode_png_mask(mask: NDArray[np.bool_]) -> bytes:
    """A mask bool [H, W] as PNG of mode L: 255 where true, 0 elsewhere."""
    # Rows with filter "up" (2, PNG specification 9.2): a mask's rows hardly differ, so nearly all bytes are
    # 0.
    pixels = mask.astype(np.uint8) * np.uint8(255)
    height, width = pixels.shape
    rows = np.empty((height, width + 1), np.uint8)
    rows[:, 0] = 2
    rows[:1, 1:] = pixels[:1]
    np.subtract(pixels[1:], pixels[:-1], out=rows[1:, 1:])
    compressor = zlib.compressobj(level=1, strategy=zlib.Z_RLE)
    body = compressor.compress(rows.tobytes()) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", body), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def data_url(png: bytes) -> str:
    """`data:image/png;base64,…`"""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
