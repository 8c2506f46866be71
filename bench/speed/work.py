"""The work that a graph is: floating-point operations and the bytes that must come from memory.

Shapes are those of a real run, of the file as it is (onnxruntime's optimizer off, so that every product is still there
by its own name). Counted are products: a multiplication and an addition are two operations. What is left out (softmax,
norms, activations, sums: well under a hundredth) makes the limit lower and the share reached smaller, never larger.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

if TYPE_CHECKING:  # of the extra `export`, which loading a server does without
    import onnx

Shape = Sequence[int]

KERNEL = "_kernel_time"  # what onnxruntime puts behind a node's name in its profile

# Nodes with products of their own whose operations are not counted here: better no figure than a wrong one.
UNCOUNTED = frozenset(
    {
        *("Attention", "Einsum", "GRU", "GroupQueryAttention", "If", "LSTM", "Loop", "PackedAttention"),
        *("PagedAttention", "RNN", "Scan", "SparseAttention"),
    }
)
# Nodes that hand a weight on without computing with it.
PASSING = frozenset({"Cast", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})


class CannotCount(Exception):
    """The graph has a kind of node whose work is not known here."""


@dataclass(frozen=True)
class Work:
    """Of one run. `bytes`: weights, inputs and outputs, each once; values inside the graph may stay in a cache."""

    flops: float
    bytes: float
    flops_by_kind: dict[str, float]

    def limit_seconds(self, flops_per_second: float, bytes_per_second: float) -> float:
        """No run can take less time, whichever of the two stands in the way."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def count(path: Path, feeds: Mapping[str, np.ndarray]) -> Work:
    """The work of the ONNX file `path` on these inputs.

    Raises:
        CannotCount: see `UNCOUNTED`.
    """
    import onnx

    by_kind: dict[str, float] = defaultdict(float)
    events, outputs = _run(path, feeds)
    for event in events:
        kind = event["op_name"]
        flops = flops_of(kind, _shapes(event["input_type_shape"]), _shapes(event["output_type_shape"]))
        if flops:
            by_kind[kind] += flops
    passed = sum(array.nbytes for array in (*feeds.values(), *outputs))
    return Work(sum(by_kind.values()), weight_bytes(onnx.load(str(path))) + passed, dict(by_kind))


def flops_of(kind: str, inputs: Sequence[Shape], outputs: Sequence[Shape]) -> float:
    """Operations of one node's products; 0 for kinds that have none.

    Raises:
        CannotCount: see `UNCOUNTED`.
    """
    if kind in UNCOUNTED:
        raise CannotCount(f"the work of a node {kind} is not counted here: add it to bench/speed/work.py")
    if kind in ("MatMul", "FusedMatMul", "MatMulNBits", "MatMulInteger", "DynamicQuantizeMatMul"):
        return 2.0 * math.prod(outputs[0]) * inputs[0][-1]
    if kind in ("Gemm", "FusedGemm"):
        # Either side may be transposed: the inner length is what is left of the first.
        return 2.0 * math.prod(outputs[0]) * math.prod(inputs[0]) / outputs[0][0]
    if kind in ("Conv", "FusedConv"):  # weights are [out, in / groups, height, width]
        return 2.0 * math.prod(outputs[0]) * math.prod(inputs[1][1:])
    if kind == "ConvTranspose":  # weights are [in, out / groups, height, width]
        return 2.0 * math.prod(inputs[0]) * math.prod(inputs[1][1:])
    if (
        kind == "MultiHeadAttention"
    ):  # query [batch, length, width]; key the same, or [batch, heads, length, width]
        query, key = inputs[0], inputs[1]
        return 4.0 * math.prod(query) * key[-2 if len(key) == 4 else 1]
    return 0.0


def weight_bytes(model: onnx.ModelProto) -> float:
    """Bytes of the weights as they lie in memory while the graph runs.

    Weights stored in float16 behind a Cast are float32 then. A table of which only rows are gathered is left out: the
    rows are among what is computed.
    """
    readers: dict[str, list[tuple[onnx.NodeProto, int]]] = defaultdict(list)
    sizes: dict[str, tuple[int, int]] = {}  # elements, bytes of one
    for tensor in model.graph.initializer:
        sizes[tensor.name] = (math.prod(tensor.dims), _item_bytes(tensor.data_type))
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            readers[name].append((node, place))
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    sizes[node.output[0]] = (math.prod(attribute.t.dims), _item_bytes(attribute.t.data_type))
    return float(sum(_read_bytes(name, *size, readers) for name, size in sizes.items()))


def _read_bytes(
    name: str, elements: int, item: int, readers: Mapping[str, list[tuple[onnx.NodeProto, int]]]
) -> int:
    """Bytes of a weight in the widest form in which a node computes with it; 0 when none reads all of it."""
    widest = 0
    for node, place in readers[name]:
        if node.op_type in PASSING and place == 0:
            wider = item
            if node.op_type == "Cast":
                wider = _item_bytes(next(a.i for a in node.attribute if a.name == "to"))
            widest = max(widest, _read_bytes(node.output[0], elements, wider, readers))
        elif not (node.op_type == "Gather" and place == 0):
            widest = max(widest, elements * item)
    return widest


def _item_bytes(data_type: int) -> int:
    import onnx

    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
    except KeyError:
        return 1  # strings and types of less than a byte, of which there are none that count


def _run(path: Path, feeds: Mapping[str, np.ndarray]) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """What onnxruntime says of each node of one run, and the outputs."""
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Weights that are packed beforehand are no longer among a node's inputs.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return [event["args"] for event in events if is_node(event)], outputs


def is_node(event: Mapping[str, Any]) -> bool:
    """Whether an event of onnxruntime's profile is the run of a node."""
    return event.get("cat") == "Node" and str(event["name"]).endswith(KERNEL)


def _shapes(described: Sequence[Mapping[str, Shape]]) -> list[Shape]:
    """`[{"float": [1, 3]}]` → `[[1, 3]]`."""
    return [next(iter(one.values())) if one else [] for one in described]
