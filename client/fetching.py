"""Pictures that the client fetches itself, by the rules that a server has too."""

from __future__ import annotations

from florence2_sam2.client import errors, images
from florence2_sam2.urls import data_url
from florence2_sam2.urls.fetch import fetch_url
from florence2_sam2.urls.rules import DeadlineReached, UrlError


def fetched(url: str, fetching: images.Fetching) -> bytes:
    """The bytes behind an `http://`, `https://` or `data:` URL. Blocks, for `rules.total_seconds` at most.

    Raises:
        InvalidRequest: the rules do not allow it, or there is no picture behind it; names `image`.
        DeadlineExceeded: the call's time was up before.
    """
    rules = fetching.rules
    try:
        if url[:5].lower() == "data:":
            return data_url.decode(url, rules.max_bytes)
        return fetch_url(url, rules, deadline=fetching.deadline)
    except UrlError as error:
        raise errors.InvalidRequest(f"image: the URL cannot be fetched here: {error}") from None
    except DeadlineReached:
        raise errors.DeadlineExceeded(images.TIME_IS_UP) from None
