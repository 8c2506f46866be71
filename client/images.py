"""The forms a caller may hold a picture in, and the one or two that travel."""

from __future__ import annotations

import io
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from florence2_sam2.urls.rules import UrlRules


class Readable(Protocol):
    """A file opened in binary mode, or anything else that reads like one."""

    def read(self) -> bytes: ...


Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8] | Readable

_REMOTE = ("http://", "https://", "data:")
TIME_IS_UP = "image: the timeout passed while the URL was fetched"
# PNG holds these modes as they are; other modes lose nothing a picture shows when they become RGB.
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")


@dataclass(frozen=True)
class Encoded:
    """A picture as it is sent: its file's bytes, or a URL that the server resolves. Exactly one is set."""

    data: bytes | None = None
    url: str | None = None
    deadline: float | None = field(default=None, compare=False)
    """When the call's time is up, in seconds of `time.monotonic`, where fetching the picture has used some of it."""

    def left(self, limit: float | None) -> float | None:
        """Seconds of a call's `limit` that are left for the server."""
        if limit is None or self.deadline is None:
            return limit
        return max(self.deadline - time.monotonic(), 0.001)


@dataclass(frozen=True)
class Fetching:
    """How the client itself fetches a URL: by which rules, and until when, in seconds of `time.monotonic`."""

    rules: UrlRules
    deadline: float | None


def is_url(picture: Picture) -> bool:
    """Whether it is an `http://`, `https://` or `data:` string."""
    return isinstance(picture, str) and picture.lower().startswith(_REMOTE)


def encode(picture: Picture, fetching: Fetching | None = None) -> Encoded:
    """What is sent for `picture`.

    A path, bytes or an open file are sent as they are, undecoded. `http://`, `https://` and `data:` strings are sent
    as URLs, which the server fetches under its own policy; with `fetching` they are fetched here, and sent as the bytes
    behind them. A Pillow image is turned upright as its EXIF says and sent as PNG, and so is an array: uint8,
    RGB [H,W,3] or grey [H,W] (OpenCV's arrays are BGR: flip them).

    Raises:
        InvalidRequest, DeadlineExceeded: with `fetching`, the URL may not be fetched, or not in time, or there is no
            picture behind it.
        FileNotFoundError, OSError: the path cannot be read.
        TypeError: `picture` is none of these.
        ValueError: the array has another dtype or shape, or the image a mode that PNG cannot hold.
    """
    if isinstance(picture, str) and is_url(picture):
        if fetching is None:
            return Encoded(url=picture)
        from florence2_sam2.client.fetching import fetched  # not at the top: it brings HTTP and TLS along

        return Encoded(data=fetched(picture, fetching), deadline=fetching.deadline)
    if isinstance(picture, (str, os.PathLike)):
        return Encoded(data=Path(picture).read_bytes())
    if isinstance(picture, (bytes, bytearray, memoryview)):
        return Encoded(data=bytes(picture))
    if isinstance(picture, Image.Image):
        return Encoded(data=_png(_upright(picture)))
    if isinstance(picture, np.ndarray):
        return Encoded(data=_png(_from_array(picture)))
    if hasattr(picture, "read"):
        data = picture.read()
        if not isinstance(data, bytes):
            raise TypeError(f"image: the file gives {type(data).__name__}, not bytes: open it in binary mode")
        return Encoded(data=data)
    raise TypeError(
        f"image: a {type(picture).__name__} is no picture; "
        "give a path, URL, bytes, Pillow image, uint8 array or file"
    )


def require_several(pictures: object) -> None:
    """Raises TypeError for one picture where several are wanted: a string's letters would be read as paths."""
    one = isinstance(pictures, (str, bytes, bytearray, os.PathLike, Image.Image))
    if one or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        raise TypeError(
            f"pictures: several are wanted, not one {type(pictures).__name__}; put it into a list"
        )


def decode(picture: Picture) -> Image.Image:
    """The upright picture in mode RGB, in the frame that a result's coordinates are in.

    Raises:
        ValueError: it is a URL.
        PIL.UnidentifiedImageError: the bytes are no picture that Pillow reads.
        Otherwise as `encode`.
    """
    if isinstance(picture, Image.Image):
        return _rgb(_upright(picture))
    encoded = encode(picture)
    if encoded.data is None:
        raise ValueError("image: the client does not fetch URLs for this: give the picture itself")
    with Image.open(io.BytesIO(encoded.data)) as image:
        return _rgb(_upright(image))


def _rgb(image: Image.Image) -> Image.Image:
    """Mode RGB with transparency on white and 16-bit grey scaled, as the server sees the picture."""
    if image.mode.startswith("I"):
        image = Image.fromarray(
            (np.asarray(image, dtype=np.float64) / 257).round().clip(0, 255).astype(np.uint8)
        )
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    return ImageOps.exif_transpose(image) or image


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8:
        raise ValueError(f"image: the array is {array.dtype}; uint8 values 0…255 are wanted")
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or 0 in array.shape:
        raise ValueError(f"image: the array has shape {list(array.shape)}; [H,W,3] or [H,W] is wanted")
    return Image.fromarray(np.ascontiguousarray(array))


def _png(image: Image.Image) -> bytes:
    if image.mode == "F":
        raise ValueError("image: Pillow mode F has no fixed range of values; convert it to L or RGB")
    if image.mode.startswith("I") and image.mode != "I;16":
        # 32 bits or another byte order in memory, but what opens in such a mode is a 16-bit file.
        image = Image.fromarray(np.asarray(image).clip(0, 65535).astype(np.uint16))
    elif image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    buffer = io.BytesIO()
    # No EXIF is written, so that the server does not turn the picture again. Level 1: speed before size.
    image.save(buffer, "PNG", compress_level=1, exif=b"")
    return buffer.getvalue()
