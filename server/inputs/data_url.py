"""Pictures inside `data:` URLs (RFC 2397), with this server's limit and its way to refuse."""

from __future__ import annotations

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.settings import Settings
from florence2_sam2.urls import data_url
from florence2_sam2.urls.rules import TooLarge, UrlError


def decode_data_url(url: str, settings: Settings, field: str = "image_url") -> bytes:
    """The bytes of `data:image/…;base64,…`. What they are is left to `decode_picture`.

    Raises:
        InvalidRequest: not of this form, no valid base64, or more than `settings.max_image_bytes`.
    """
    try:
        return data_url.decode(url, settings.max_image_bytes)
    except UrlError as error:
        raise refused(field, error) from None


def refused(field: str, error: UrlError) -> InvalidRequest:
    """What the caller is told of `error`."""
    if isinstance(error, TooLarge):
        problem = f"the picture has more than the {error.limit} bytes that this server takes"
        return InvalidRequest(field, problem)
    return InvalidRequest(field, str(error))
