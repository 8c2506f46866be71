"""Reading a request's inputs and building a response's outputs.

Triton has checked data types and shapes against `config.pbtxt` before a model sees a request, but for
optional inputs the model must expect None, and a dimension of -1 leaves the length open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from florence2_sam2.server.errors import InvalidRequest

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, Tensor

T = TypeVar("T")


def array_input(
    request: InferenceRequest, name: str, dtype: DTypeLike, shape: Sequence[int | None]
) -> NDArray[Any] | None:
    """The input `name`, or None when the request has none. None in `shape` stands for any length.

    The array may lie in shared memory that ends with the request: copy what must live longer.

    Raises:
        InvalidRequest: another dtype or shape than asked for, or it lies in a GPU's memory.
    """
    tensor = _input(request, name)
    if tensor is None:
        return None
    if not tensor.is_cpu():
        raise InvalidRequest(name, "lies in a GPU's memory: send it in the host's")
    array: NDArray[Any] = tensor.as_numpy()
    if array.dtype != np.dtype(dtype):
        raise InvalidRequest(name, f"has dtype {array.dtype}, expected {np.dtype(dtype)}")
    if len(array.shape) != len(shape) or any(
        want not in (None, have) for want, have in zip(shape, array.shape, strict=True)
    ):
        raise InvalidRequest(name, f"has shape {_shown(array.shape)}, expected {_shown(shape)}")
    return array


def gpu_input(request: InferenceRequest, name: str) -> Tensor | None:
    """The input `name` where it lies in a GPU's memory, which it does for models whose config allows it (with
    `FORCE_CPU_ONLY_INPUT_TENSORS` "no"); else None. It ends with the request."""
    tensor = _input(request, name)
    return tensor if tensor is not None and not tensor.is_cpu() else None


def required(value: T | None, name: str) -> T:
    """`value`, when there is one.

    Raises:
        InvalidRequest: it is None. Triton does not always refuse a request that lacks a required input.
    """
    if value is None:
        raise InvalidRequest(name, "is missing")
    return value


def bytes_input(request: InferenceRequest, name: str) -> bytes | None:
    """The one element of a BYTES [1] input, or None when the request has no such input.

    Raises:
        InvalidRequest: it does not hold exactly one element.
    """
    array = array_input(request, name, np.object_, [None])
    if array is None:
        return None
    if len(array) != 1:
        raise InvalidRequest(name, f"has {len(array)} elements, expected exactly one")
    return bytes(array[0])


def text_input(request: InferenceRequest, name: str) -> str | None:
    """Like `bytes_input`, as text.

    Raises:
        InvalidRequest: it does not hold exactly one element, or no UTF-8.
    """
    data = bytes_input(request, name)
    if data is None:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidRequest(name, f"is not UTF-8 (byte {error.start})") from None


def number_input(request: InferenceRequest, name: str) -> float | None:
    """The one element of an FP32 [1] input, or None. NaN and infinity are let through: ranges are the
    caller's.
    """
    array = array_input(request, name, np.float32, [1])
    return None if array is None else float(array[0])


def flag_input(request: InferenceRequest, name: str) -> bool | None:
    """The one element of a BOOL [1] input, or None."""
    array = array_input(request, name, np.bool_, [1])
    return None if array is None else bool(array[0])


def owned(array: NDArray[Any]) -> NDArray[Any]:
    """`array`, or a copy of it if it shows somebody else's memory.

    The python backend copies what it reads from shared memory, once for each tensor (24.10); nothing promises that.
    """
    holder = array
    while isinstance(holder.base, np.ndarray):
        holder = holder.base
    return array if holder.flags.owndata else np.array(array)


def array_output(name: str, array: NDArray[Any]) -> Tensor:
    """An output of any numeric dtype and shape; a length of 0 is allowed (FP32 [0, 4] for no boxes)."""
    import triton_python_backend_utils as pb_utils

    return pb_utils.Tensor(name, np.ascontiguousarray(array))


def bytes_output(name: str, *elements: bytes) -> Tensor:
    """A BYTES [n] output."""
    import triton_python_backend_utils as pb_utils

    return pb_utils.Tensor(name, bytes_array(elements))


def bytes_array(elements: Sequence[bytes]) -> NDArray[np.object_]:
    """BYTES [n] as an array of objects: numpy's own bytes dtype would drop trailing NULs."""
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array


def _input(request: InferenceRequest, name: str) -> Tensor | None:
    return next((tensor for tensor in request.inputs() if tensor.name() == name), None)


def _shown(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"
