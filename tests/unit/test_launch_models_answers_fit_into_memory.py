"""An answer that does not fit into the shared memory is refused before Triton is given it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.triton.memory import check_room, own_region


class Output:
    """As much of an output tensor as is looked at."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    def as_numpy(self) -> NDArray[Any]:
        return self._array


def zeros(*shape: int) -> Output:
    return Output(np.broadcast_to(np.float32(0), shape))  # takes no memory itself


def test_ordinary_answers_pass() -> None:
    check_room([])
    check_room([zeros(0, 4), Output(np.array([b"label", b""], np.object_))])
    check_room([zeros(1000, 1000)])


def test_what_cannot_fit_is_refused_with_its_size() -> None:
    with pytest.raises(Overloaded, match="short of shared memory for an answer of 4194304 MB"):
        check_room([zeros(2**20, 2**20), zeros(3)])


def test_bytes_count_with_their_lengths() -> None:
    many = np.empty(2**20, np.object_)
    many[:] = b""
    check_room([Output(many)])
    huge = np.array([b"x" * 2**20] * 2, np.object_)
    with pytest.raises(Overloaded):
        check_room([Output(huge), zeros(2**40)])


def test_the_largest_shared_mapping_counts_as_room() -> None:
    maps = (
        "7f0000000000-7f0000400000 rw-s 00000000 00:19 12 /dev/shm/florence2_sam2_1_a\n"
        "7f1000000000-7f1000100000 rw-s 00000000 00:19 13 /dev/shm/other\n"
        "7f2000000000-7f2fff000000 r-xp 00000000 00:19 14 /usr/lib/libc.so.6\n"
    )
    assert own_region(maps) == 4 * 2**20
    assert own_region("") == 0
