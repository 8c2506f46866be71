"""What `Segmenter` and `AsyncSegmenter` have in common: time limits, and answers understood."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

from florence2_sam2.client import errors, images
from florence2_sam2.client.results import Segmentation

T = TypeVar("T")

POLL_SECONDS = 0.2


class ClientDefault(enum.Enum):
    CLIENT_DEFAULT = "the client's"


CLIENT_DEFAULT: Final = ClientDefault.CLIENT_DEFAULT
Timeout: TypeAlias = float | ClientDefault | None


def seconds(timeout: Timeout, default: float | None) -> float | None:
    return default if isinstance(timeout, ClientDefault) else timeout


def not_ready(failure: Exception | None, address: str, timeout: float) -> Exception:
    if isinstance(failure, (errors.CannotConnect, errors.ModelNotFound)):
        return failure
    return errors.DeadlineExceeded(f"{address} was not ready to segment after {timeout:g} s")


def segmentation(answer: Any, picture: images.Encoded) -> Segmentation:
    body = json.loads(answer.as_numpy("result").item())
    mask = answer.as_numpy("mask_png")
    return Segmentation.from_json(body, b"" if mask is None else mask.item(), picture.data)


def understood(read: Callable[..., T], *arguments: Any) -> T:
    """`read(*arguments)`, of tritonclient's InferResult."""
    try:
        return read(*arguments)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise errors.ServerError(
            f"the server's answer has another form than this client knows: {error!r}"
        ) from error
