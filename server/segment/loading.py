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
# Files up to here are hashed sooner (a quarter of a millisecond) than a thread could be woken to do it.
_HASHED_AT_ONCE = 2**18

Key = tuple[str, bytes, tuple[int, int] | None]


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
        if request.image_url is not None and is_data_url(request.image_url):
            data = decode_data_url(request.image_url, self.settings)
        key = "picture", file_digest(data), self._least(request)
        remembered = self._remembered(request, data, key)
        if remembered is not None:
            return remembered
        pixels, size = self._decode(request, data)
        return Picture.of(pixels, key[1], size, key)

    def known(self, request: SegmentRequest, data: bytes) -> Picture | None:
        """What `load` would give without decoding, where that can be said at once."""
        if not 0 < len(data) <= _HASHED_AT_ONCE:
            return None
        return self._remembered(request, data, ("picture", file_digest(data), self._least(request)))

    def _remembered(self, request: SegmentRequest, data: bytes, key: Key) -> Picture | None:
        known: tuple[bytes, tuple[int, int]] | None = self.memory.peek(key)
        if known is None:
            return None
        return Picture(*known, decode=lambda: self._decode(request, data)[0], key=key)

    def _least(self, request: SegmentRequest) -> tuple[int, int] | None:
        """The width and height below which a reduced decode must not go; None: it is decoded in full."""
        if not request.options.reduced_decode:
            return None
        tiles = request.options.tiles  # each of which is resized to the models' size
        return tiles * self.input_size[0], tiles * self.input_size[1]

    def _decode(self, request: SegmentRequest, data: bytes) -> tuple[Pixels, tuple[int, int] | None]:
        """Pixels, and the picture's own size where they are fewer."""
        field, least = "image" if request.image is not None else "image_url", self._least(request)
        if least is None:
            return decode_picture(data, self.settings, field), None
        return decode_reduced(data, self.settings, field, least)

    def remember(self, picture: Picture) -> None:
        """That it can be decoded, and its size; on the event loop."""
        if picture.key is not None:
            self.memory.keep(picture.key, (picture.digest, picture.size), _BYTES)
