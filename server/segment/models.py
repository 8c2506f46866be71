"""What the pipeline asks of the models. Triton's BLS implements it in production (`triton_models.py`)."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from florence2_sam2.server.manifest import ImageSpec

Pixels = npt.NDArray[np.uint8]  # [H,W,3] RGB, upright
Floats = npt.NDArray[np.float32]
T = TypeVar("T")


class Picture:
    """An upright picture. Pictures of the same digest have the same pixels.

    Args:
        digest: of the pixels.
        size: width and height, in whose pixels all coordinates are.
        pixels: fewer than `size` says where the file was decoded at a reduced size; None: `decode` gives them when they
            are asked for.
        key: under which it is remembered that it can be decoded, see `loading.py`.
    """

    def __init__(
        self,
        digest: bytes,
        size: tuple[int, int],
        pixels: Pixels | None = None,
        decode: Callable[[], Pixels] | None = None,
        key: Hashable = None,
    ) -> None:
        self.digest, self.size, self.key = digest, size, key
        self._pixels, self._decode = pixels, decode
        self._decoding = threading.Lock()

    @classmethod
    def of(
        cls, pixels: Pixels, file: bytes, size: tuple[int, int] | None = None, key: Hashable = None
    ) -> Picture:
        """The picture of that size (default: that of `pixels`) that a file of that digest was decoded to."""
        height, width = pixels.shape[:2]
        digest = hashlib.blake2b(f"{width}x{height}".encode() + file, digest_size=32).digest()
        return cls(digest, size or (width, height), pixels, key=key)

    @property
    def is_decoded(self) -> bool:
        """Whether `pixels` takes no time."""
        return self._pixels is not None

    @property
    def pixels(self) -> Pixels:
        """uint8 [H,W,3]. May take as long as decoding the file does: ask in a worker thread unless it `is_decoded`."""
        with self._decoding:
            if self._pixels is None:
                assert self._decode is not None
                self._pixels = self._decode()
            return self._pixels

    def window(self, box: tuple[int, int, int, int]) -> Picture:
        """The part between x1, y1 and x2, y2, in pixels."""
        x1, y1, x2, y2 = box

        def cut() -> Pixels:
            height, width = self.pixels.shape[:2]
            columns = slice(x1 * width // self.size[0], -(-x2 * width // self.size[0]))
            rows = slice(y1 * height // self.size[1], -(-y2 * height // self.size[1]))
            return np.ascontiguousarray(self.pixels[rows, columns])

        digest = hashlib.blake2b(self.digest + repr(box).encode(), digest_size=32).digest()
        return Picture(digest, (x2 - x1, y2 - y1), decode=cut)

    def full(self) -> Pixels:
        """Pixels uint8 [H,W,3] of the picture's size, enlarged if it was decoded at a reduced one."""
        width, height = self.size
        if self.pixels.shape[:2] == (height, width):
            return self.pixels
        return np.asarray(cv2.resize(self.pixels, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)


def file_digest(encoded: bytes) -> bytes:
    """Of a picture's file."""
    return hashlib.blake2b(encoded, digest_size=32).digest()


@dataclass(frozen=True)
class Region:
    """One grounded phrase or detected class: xyxy in pixels. `dropped` says why the parser set it aside, if it did.

    `score` is how sure Florence-2 was (see `postprocess.regions.parse_regions`).
    """

    label: str
    box: tuple[float, float, float, float]
    dropped: str | None = None
    score: float | None = None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Region:
        """Read one of `florence2`'s regions, one with a box."""
        x1, y1, x2, y2 = row["box"]
        return cls(row["label"], (x1, y1, x2, y2), row["dropped"], row["score"])


@dataclass(frozen=True)
class Generated:
    """Florence-2's answer to one task."""

    text: str
    regions: tuple[Region, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """A text as far as it is written. A search with beams may take some of it back, unless it is `whole`."""

    text: str
    whole: bool = False


class Tell(Protocol):
    """Those who read along, who may be nobody."""

    def __call__(self, written: Written, /) -> None: ...

    def when_heard(self, begin: Callable[[], None]) -> None:
        """Call `begin` once somebody reads along; until then there is nobody to tell."""
        ...


@dataclass(frozen=True)
class GenerationOptions:
    """What a caller may change of the decoding; None means the checkpoint's own setting."""

    num_beams: int | None = None
    max_new_tokens: int | None = None
    phrases: tuple[str, ...] | None = None
    priority: str = "interactive"


class Features(Protocol):
    """What an encoder made of one picture, wherever it lies: only the models that made it look inside. Florence-2's are
    FP32 [1,T,D], SAM2's three maps FP32 [1,C,h,w]."""

    @property
    def nbytes(self) -> int:
        """What keeping them takes of the memory for what pictures cost before."""
        ...


@dataclass(frozen=True)
class Sam2Maps:
    """Features in memory of our own, read-only."""

    image_embeddings: Floats
    high_res_features_0: Floats
    high_res_features_1: Floats

    def __post_init__(self) -> None:
        for array in self.arrays():
            array.setflags(write=False)

    def arrays(self) -> tuple[Floats, Floats, Floats]:
        return self.image_embeddings, self.high_res_features_0, self.high_res_features_1

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())


def largest(*images: ImageSpec) -> tuple[int, int]:
    """The largest width and the largest height among sizes that pictures are resized to."""
    return max(image.width for image in images), max(image.height for image in images)


class Run(Protocol):
    """Run a plain function in a worker thread."""

    def __call__(self, function: Callable[..., T], *arguments: Any) -> Awaitable[T]: ...


class Models(Protocol):
    """One call a method; each may run beside others. Pixel arrays are never kept after the call returns."""

    identities: dict[str, dict[str, Any]]
    input_size: tuple[int, int]  # the largest width and height that an encoder resizes a picture to

    async def image_features(self, picture: Pixels) -> Features:
        """Florence-2's features of a picture."""

    async def generate(
        self,
        features: Features,
        size: tuple[int, int],
        task: str,
        text: str,
        options: GenerationOptions,
        tell: Tell,
    ) -> Generated:
        """Run one Florence-2 task on a picture's features. `size` is (width, height), the frame of the regions.

        `tell` gets the text so far, now and then, and all of it as soon as it is written, while somebody reads along.
        """

    async def sam2_pixels(self, picture: Pixels) -> Pixels:
        """A picture as SAM2's encoder takes it."""

    async def sam2_features(self, pixels: Pixels) -> Features:
        """SAM2's features of what `sam2_pixels` has made of a picture."""

    async def masks(self, features: Features, boxes: Floats, size: tuple[int, int]) -> tuple[Floats, Floats]:
        """Mask logits FP32 [N,s,s] and scores FP32 [N] for N > 0 boxes [N,4] in the picture's pixels."""
