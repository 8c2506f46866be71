"""From a file's bytes to the picture of a call, decoded no more often than its pixels are needed."""

from __future__ import annotations

from dataclasses import dataclass

from florence2_sam2.server.inputs.data_url import decode_data_url
from florence2_sam2.server.inputs.pictures import decode_picture, decode_reduced
from florence2_sam2.server.segment.memory import Memory
from florence2_sam2.server.segment.models import Picture, Pixels, file_digest
from florence2_sam2.server.segment.request import SegmentRequest
from florence2_sam2.server.settings import Settings

_BYTES = 500  # of what is remembered of a picture, roughly


def is_data_url(url: str) -> bool:
    """Whether the picture is in the URL itself."""
    return url[:5].lower() == "data:"


@dataclass(frozen=True)
class Loader:
    """Makes pictures of files. One that has been decoded before, and is still remembered, is decoded again only when
    its pixels are asked for, which no stage does that is remembered too.

    Args:
        input_size: the largest width and height that an encoder resizes a picture to.
    """

    settings: Settings
    memory: Memory
    input_size: tuple[int, int]

    def load(self, request: SegmentRequest, data: bytes) -> Picture:
        """The picture in `data`, or in the request's `data:` URL. Takes as long as decoding does: call it in a thread.

        Raises:
            InvalidRequest: there is no picture in it that this server takes.
        """
        settings, field = self.settings, "image" if request.image is not None else "image_url"
        if request.image_url is not None and is_data_url(request.image_url):
            data = decode_data_url(request.image_url, settings)
        least: tuple[int, int] | None = None
        if request.options.reduced_decode:
            tiles = request.options.tiles  # each of which is resized to the models' size
            least = tiles * self.input_size[0], tiles * self.input_size[1]

        def decode() -> tuple[Pixels, tuple[int, int] | None]:
            if least is None:
                return decode_picture(data, settings, field), None
            return decode_reduced(data, settings, field, least)

        key = "picture", file_digest(data), least
        known: tuple[bytes, tuple[int, int]] | None = self.memory.peek(key)
        if known is not None:
            return Picture(*known, decode=lambda: decode()[0], key=key)
        pixels, size = decode()
        return Picture.of(pixels, key[1], size, key)

    def remember(self, picture: Picture) -> None:
        """That it can be decoded, and its size; on the event loop."""
        if picture.key is not None:
            self.memory.keep(picture.key, (picture.digest, picture.size), _BYTES)
