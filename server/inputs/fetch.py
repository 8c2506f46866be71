"""Fetching `image_url` by this server's rules, and its way to refuse; the work is `florence2_sam2.urls`'."""

from __future__ import annotations

from florence2_sam2.server.errors import DeadlinePassed, InvalidRequest
from florence2_sam2.server.inputs.data_url import decode_data_url, refused
from florence2_sam2.server.settings import Settings
from florence2_sam2.urls import policy
from florence2_sam2.urls.fetch import fetch_url
from florence2_sam2.urls.rules import DeadlineReached, UrlError, UrlRules

_FIELD = "image_url"


def fetch_image(
    url: str,
    settings: Settings,
    deadline: float | None = None,
    *,
    resolver: policy.Resolver = policy.resolve,
) -> bytes:
    """The bytes behind an `image_url`: http, https (as `policy.decide` allows), or data.

    Blocks for at most `settings.url_total_seconds`, everything included; call it in a thread. What the bytes are is
    left to `decode_picture`.

    Args:
        url: the caller's text.
        settings: the limits whose names begin with `url_`, and `max_image_bytes`.
        deadline: the caller's own, in seconds of `time.monotonic`.
        resolver: asked once for each host.

    Raises:
        InvalidRequest: the URL may not be fetched, or what is behind it is missing, too large, too slow, no picture.
        DeadlinePassed: the caller's deadline came first.
    """
    if url[:5].lower() == "data:":
        return decode_data_url(url, settings, _FIELD)
    if not settings.urls_enabled:
        raise InvalidRequest(_FIELD, "this server fetches no URLs; send the picture itself in `image`")
    try:
        return fetch_url(url, rules_of(settings), resolver=resolver, deadline=deadline)
    except UrlError as error:
        raise refused(_FIELD, error) from None
    except DeadlineReached:
        raise DeadlinePassed("the deadline passed while image_url was fetched") from None


def rules_of(settings: Settings) -> UrlRules:
    """What this server allows."""
    return UrlRules(
        allow=settings.url_allow,
        ports=settings.url_ports,
        connect_seconds=settings.url_connect_seconds,
        total_seconds=settings.url_total_seconds,
        max_redirects=settings.url_max_redirects,
        max_bytes=settings.max_image_bytes,
    )
