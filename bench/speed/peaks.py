"""What the machine can do at best, measured: multiplications of matrices, and reading memory.

Every way that is at hand is tried with one thread for each core, and the fastest counts as the machine's limit.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.speed.machine import cores, last_cache_bytes

SIDES = (1024, 2048)  # of square matrices: one fits the caches, the other keeps the threads busy
LEAST_BYTES = 2**30  # of what is read: far more than any cache
CACHES = 8  # and this many times the largest cache


class Peaks:
    """To be made in a process whose environment sets no number of threads."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(cores())
        self._torch = torch
        self._random = np.random.default_rng(0)
        self._pool = ThreadPoolExecutor(cores())

    def sgemm(self, sides: tuple[int, ...] = SIDES, seconds: float = 1.0) -> dict[str, float]:
        """Operations a second of each library's float32 product, the best over sizes and repeats."""
        best = dict.fromkeys(("torch", "numpy", "onnxruntime"), 0.0)
        for side in sides:
            a, b = (self._random.standard_normal((side, side)).astype(np.float32) for _ in range(2))
            ta, tb = self._torch.from_numpy(a), self._torch.from_numpy(b)
            ways: dict[str, Callable[[], object]] = {
                "torch": lambda ta=ta, tb=tb: ta @ tb,
                "numpy": lambda a=a, b=b: a @ b,
                "onnxruntime": _onnxruntime_product(a, b),
            }
            for name, way in ways.items():
                best[name] = max(best[name], 2.0 * side**3 / _fastest(way, seconds / len(sides)))
        return best

    def bandwidth(self, least_bytes: int = LEAST_BYTES, seconds: float = 1.0) -> dict[str, float]:
        """Bytes a second of reading an array once from memory, the best over repeats."""
        count = max(least_bytes, CACHES * last_cache_bytes()) // 4
        rows = 1024
        array = np.ones((rows, count // rows), np.float32)
        tensor = self._torch.from_numpy(array)
        vector = self._torch.ones(array.shape[1])
        parts = np.array_split(array, cores())
        ways: dict[str, Callable[[], object]] = {
            "sum of torch": tensor.sum,
            "matrix times vector of torch": lambda: tensor @ vector,
            "maximum of numpy, a thread a core": lambda: list(self._pool.map(np.max, parts)),
        }
        return {name: array.nbytes / _fastest(way, seconds) for name, way in ways.items()}


def _fastest(way: Callable[[], object], seconds: float) -> float:
    """The shortest of the runs that fit into `seconds`, three at least; the first one only warms up."""
    way()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        way()
        times.append(time.perf_counter() - start)
    return min(times)


def _onnxruntime_product(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    """As the server's sessions compute it: the right side is a weight, which the session may rearrange."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from florence2_sam2.server.onnx_session import open_session

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, a.shape)],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, (a.shape[0], b.shape[1]))],
        [numpy_helper.from_array(b, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        onnx.save(model, path)
        session = open_session(path, intra_op_threads=cores())
    return lambda: session.run(None, {"a": a})
