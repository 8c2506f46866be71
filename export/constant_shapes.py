"""What a graph computes about shapes and is the same whatever the batch, worked out once, at export.

The exporter writes down each size that the code asks for, `Shape` and arithmetic behind it, because some axis may vary;
of a thousand nodes of a vision tower two in three are of that kind, and each run computes them again. Which of them
really vary is found by running the graph with three sizes of each dynamic axis. A Reshape gets a constant target in
which the varying axis is -1 (what is left) or 0 (as it was); padding by nothing and slices of everything are left out.
The same numbers are computed. (onnxruntime may fuse more where it sees a constant, a scale into a product, say.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from florence2_sam2.server.onnx_session import CPU, open_session

PROBES = 3
# Larger values, such as tables of positions, would cost more in the file than computing them does.
MOST_ELEMENTS = 1024
PROBED = "probed_shape_of:"

Array = NDArray[Any]
Values = Mapping[str, Array]


def probes(
    inputs: Sequence[tuple[str, Sequence[int | str], Array]], count: int = PROBES
) -> Iterator[dict[str, Array]]:
    """The example's inputs in `count` sizes, the first its own.

    Each dynamic axis grows by a step of its own, a power of two, so that no axis and no sum of some is always as long
    as another. Values are the example's again and again: an index that was valid stays so.

    Args:
        inputs: name, axes (a size or a dynamic axis' name) and the example's value of each input.
    """
    names = list(dict.fromkeys(axis for _, axes, _ in inputs for axis in axes if isinstance(axis, str)))
    for number in range(count):
        sized = {}
        for name, axes, example in inputs:
            value = example
            for index, axis in enumerate(axes):
                if isinstance(axis, str):
                    length = value.shape[index]
                    grown = np.arange(length + number * 2 ** names.index(axis)) % length
                    value = np.take(value, grown, axis=index)
            sized[name] = value
        yield sized


def fix_shapes(model: onnx.ModelProto, file: Path, feeds: Iterable[Mapping[str, Array]]) -> None:
    """Replace in `model` what is the same for all `feeds`, in place.

    Args:
        file: where `model` was read from; a file beside it is written and removed.
        feeds: inputs of several sizes, as `probes` gives them.
    """
    found = _measure(model, file, feeds)
    graph = model.graph
    constants = _Constants(graph)
    for node in graph.node:
        for index, name in enumerate(node.input):
            same = _same(found, name)
            if same is not None and same.size <= MOST_ELEMENTS:
                node.input[index] = constants.name_of(same)
        if node.op_type == "Reshape":
            target = _target(found, node)
            if target is not None:
                node.input[1] = constants.name_of(target)
    needless = {node.output[0]: node.input[0] for node in graph.node if _does_nothing(found, node, constants)}
    for node in graph.node:
        for index, name in enumerate(node.input):
            while name in needless:
                name = needless[name]
            node.input[index] = name
    prune(model)


def prune(model: onnx.ModelProto) -> None:
    """Leave out nodes and initializers that no output needs. In place."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    kept.reverse()
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    # Copies: what a list of protobuf holds goes when it is emptied.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    if len(initializers) < len(graph.initializer):
        names = {tensor.name for tensor in initializers}
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name not in names:
                del graph.initializer[index]
    del graph.node[:]
    graph.node.extend(nodes)


def _measure(model: onnx.ModelProto, file: Path, feeds: Iterable[Mapping[str, Array]]) -> list[Values]:
    """For each of `feeds` all values that follow from shapes alone, and the shapes (PROBED + name) of what Reshape and
    Slice take and give."""
    asked = _from_shapes(model.graph)
    shapes = dict.fromkeys(
        name
        for node in model.graph.node
        if node.op_type in ("Reshape", "Slice")
        for name in (node.input[0], node.output[0])
    )
    if not asked:
        return []
    probe = onnx.load(str(file), load_external_data=False)  # external data is read where it lies
    for name in shapes:
        probe.graph.node.append(helper.make_node("Shape", [name], [PROBED + name]))
    outputs = {value.name for value in probe.graph.output}
    names = [*asked, *(PROBED + name for name in shapes)]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    beside = file.with_name(f"probe-{file.name}")
    onnx.save(probe, str(beside))
    del probe
    try:
        session = open_session(beside, [CPU])
        return [dict(zip(names, session.run(names, dict(feed)), strict=True)) for feed in feeds]
    finally:
        beside.unlink()


def _from_shapes(graph: onnx.GraphProto) -> list[str]:
    """Values that are computed from shapes and constants, and from no value of an input."""
    constants = {tensor.name for tensor in graph.initializer} | {""}  # "": an input that is left out
    shapes: dict[str, None] = {}
    for node in graph.node:
        if node.op_type == "Shape":
            shapes.update(dict.fromkeys(node.output))
        elif all(name in constants for name in node.input):
            constants.update(node.output)
        elif all(name in constants or name in shapes for name in node.input):
            shapes.update(dict.fromkeys(node.output))
    return list(shapes)


def _same(found: Sequence[Values], name: str) -> Array | None:
    """The value of `name` if it was measured and is the same each time."""
    if not found or name not in found[0]:
        return None
    first = found[0][name]
    return first if all(np.array_equal(first, values[name]) for values in found) else None


def _target(found: Sequence[Values], node: onnx.NodeProto) -> Array | None:
    """A Reshape's target that does not depend on dynamic axes, where one can be written."""
    taken, given = (
        [values.get(PROBED + name) for values in found] for name in (node.input[0], node.output[0])
    )
    if not found or any(shape is None for shape in (*taken, *given)):
        return None
    target = np.array(given[0])
    varying = [axis for axis in range(target.size) if len({int(shape[axis]) for shape in given}) > 1]  # type: ignore[index]
    left = []
    for axis in varying:
        pairs = zip(taken, given, strict=True)
        kept = all(axis < len(one) and one[axis] == other[axis] for one, other in pairs)  # type: ignore[arg-type,index]
        if kept and len(varying) > 1:
            target[axis] = 0
        else:
            left.append(axis)
    if len(left) > 1:
        return None
    target[left] = -1
    return target


def _does_nothing(found: Sequence[Values], node: onnx.NodeProto, constants: _Constants) -> bool:
    """Whether `node` pads by nothing, or takes a slice that is everything for any size."""
    arguments = [constants.value_of(name) for name in node.input[1:]]
    if node.op_type == "Pad":
        return bool(arguments) and arguments[0] is not None and not arguments[0].any()
    if node.op_type != "Slice" or len(arguments) < 3 or any(value is None for value in arguments):
        return False
    starts, ends, axes, *steps = (np.asarray(value) for value in arguments)
    if starts.any() or any((step != 1).any() for step in steps):
        return False
    lengths = [values.get(PROBED + node.input[0]) for values in found]
    if not lengths or any(shape is None for shape in lengths):
        return False
    for end, axis in zip(ends, axes, strict=True):
        sizes = {int(shape[axis]) for shape in lengths}  # type: ignore[index]
        whole = end >= np.iinfo(np.int32).max or (len(sizes) == 1 and end >= min(sizes))
        if not whole:
            return False
    return True


class _Constants:
    """A graph's initializers and constants, by value: those that are asked for are added."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._values = {
            node.output[0]: node.attribute[0].t
            for node in graph.node
            if node.op_type == "Constant" and node.attribute[0].name == "value"
        }
        self._values.update({tensor.name: tensor for tensor in graph.initializer})

    def name_of(self, value: Array) -> str:
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._names:
            self._names[key] = f"constant_shape_{len(self._names)}"
            tensor = numpy_helper.from_array(value, self._names[key])
            self._graph.initializer.append(tensor)
            self._values[tensor.name] = tensor
        return self._names[key]

    def value_of(self, name: str) -> Array | None:
        return numpy_helper.to_array(self._values[name]) if name in self._values else None
