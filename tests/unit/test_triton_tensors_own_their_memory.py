"""`tensors.owned`: what shows another's memory is copied, what does not is not."""

from __future__ import annotations

import numpy as np
import pytest

from florence2_sam2.server.triton.tensors import owned


def test_an_array_with_its_own_memory_is_not_copied() -> None:
    array = np.arange(6, dtype=np.int32)
    assert owned(array) is array
    view = array.view(np.float32).reshape(2, 3)  # as the python backend makes them
    assert owned(view) is view


@pytest.mark.parametrize(
    "memory", [bytearray(24), memoryview(bytearray(24))], ids=["bytearray", "memoryview"]
)
def test_an_array_that_shows_anothers_memory_is_copied(memory: bytearray) -> None:
    shown = np.frombuffer(memory, np.float32).reshape(2, 3)
    copy = owned(shown)
    assert not np.shares_memory(copy, shown)
    memory[:4] = np.float32(7).tobytes()
    assert shown[0, 0] == 7
    assert copy[0, 0] == 0
