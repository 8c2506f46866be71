"""Whether an answer fits into the shared memory that a model hands it over in.

When it does not, Triton takes no answer at all to that request, not even an error, and its caller waits for
ever (2.51.0). So this is looked at first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.server.errors import Overloaded

if TYPE_CHECKING:
    from triton_python_backend_utils import Tensor

SHARED_MEMORY = "/dev/shm"
# Below this an answer fits into what every model has from the start.
SMALL_BYTES = 2**20


def check_room(tensors: Iterable[Tensor]) -> None:
    """Refuse an answer that fits neither into the model's own region nor beside it.

    Raises:
        Overloaded: the machine is short of shared memory.
    """
    needed = sum(_size(tensor.as_numpy()) for tensor in tensors)
    if needed <= SMALL_BYTES:
        return
    status = os.statvfs(SHARED_MEMORY)
    free = status.f_bavail * status.f_frsize
    if (
        needed + SMALL_BYTES > free and needed + SMALL_BYTES > free + own_region()
    ):  # which takes a millisecond
        raise Overloaded(f"the server is short of shared memory for an answer of {needed / 2**20:.0f} MB")


def own_region(maps: str | None = None) -> int:
    """Bytes of this process's largest mapping in /dev/shm. `maps` is the text of /proc/self/maps."""
    text = Path("/proc/self/maps").read_text() if maps is None else maps
    sizes = [0]
    for row in text.splitlines():
        if f" {SHARED_MEMORY}/" in row:
            start, end = row.split()[0].split("-")
            sizes.append(int(end, 16) - int(start, 16))
    return max(sizes)


def _size(array: NDArray[Any]) -> int:
    if array.dtype == np.object_:  # each element is preceded by its length in four bytes
        return sum(len(element) + 4 for element in array.ravel().tolist())
    return array.nbytes
