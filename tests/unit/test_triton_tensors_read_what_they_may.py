"""An input in a GPU's memory is read by nobody who does not ask for it there."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.triton.tensors import array_input, gpu_input


class Tensor:
    def __init__(self, name: str, on_gpu: bool) -> None:
        self._name, self._on_gpu = name, on_gpu

    def name(self) -> str:
        return self._name

    def is_cpu(self) -> bool:
        return not self._on_gpu

    def as_numpy(self) -> np.ndarray:
        assert not self._on_gpu, "Triton cannot read a GPU's memory"
        return np.zeros((1, 2), np.float32)


ON_GPU, ON_HOST = Tensor("features", True), Tensor("size", False)
REQUEST: Any = SimpleNamespace(inputs=lambda: [ON_GPU, ON_HOST])


def test_in_the_hosts_memory() -> None:
    assert array_input(REQUEST, "size", np.float32, [1, 2]) is not None
    assert gpu_input(REQUEST, "size") is None


def test_on_a_gpu() -> None:
    assert gpu_input(REQUEST, "features") is ON_GPU
    with pytest.raises(InvalidRequest, match=r"features: lies in a GPU's memory: send it in the host's$"):
        array_input(REQUEST, "features", np.float32, [1, 2])


def test_nowhere() -> None:
    assert gpu_input(REQUEST, "other") is None
    assert array_input(REQUEST, "other", np.float32, [1, 2]) is None
