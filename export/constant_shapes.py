"""What a graph computes about shapes and is the same whatever the batch, worked out once, at export.

The exporter writes down each size that the code asks for, `Shape` and arithmetic behind it, because some axis may vary;
of a thousand nodes of a vision tower two in three are of that kind, and each run computes them again. Which of them
really vary is found by working them out for three sizes of each dynamic axis (`measured_shapes`). A Reshape gets a
constant target in which the varying axis is -1 (what is left) or 0 (as it was); padding by nothing and slices of
everything are left out. The same numbers are computed. (onnxruntime may fuse more where it sees a constant, a scale
into a product, say.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from florence2_sam2.export.measured_shapes import Measured, Shape, measure

PROBES = 3
# Larger values, such as tables of positions, would cost more in the file than computing them does.
MOST_ELEMENTS = 1024

Array = NDArray[Any]


def probes(inputs: Mapping[str, tuple[Sequence[int | str], Shape]]) -> Iterator[dict[str, Shape]]:
    """The inputs' shapes in PROBES sizes, the first those of the example.

    Each dynamic axis grows by a step of its own, a power of two, so that no axis and no sum of some is always as long
    as another.

    Args:
        inputs: name → axes (a size or a dynamic axis' name), and the example's shape.
    """
    names = list(dict.fromkeys(axis for axes, _ in inputs.values() for axis in axes if isinstance(axis, str)))
    for number in range(PROBES):
        yield {
            name: tuple(
                length + number * 2 ** names.index(axis) if isinstance(axis, str) else length
                for axis, length in zip(axes, example, strict=True)
            )
            for name, (axes, example) in inputs.items()
        }


def fix_shapes(model: onnx.ModelProto, sizes: Iterable[Mapping[str, Shape]]) -> None:
    """Replace in `model` what is the same for all `sizes`, in place.

    Args:
        sizes: shapes of the inputs, as `probes` gives them.
    """
    found = [measure(model, shapes) for shapes in sizes]
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
            needed.update(_needs(node))
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


def _needs(node: onnx.NodeProto) -> Iterator[str]:
    """Names of values that a node takes, in graphs within it (of an If or a Loop) too."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            yield from (value.name for value in graph.output)
            for inner in graph.node:
                yield from _needs(inner)


def _same(found: Sequence[Measured], name: str) -> Array | None:
    """The value of `name` if it follows from shapes and is the same each time."""
    values = [one.values.get(name) for one in found]
    first = values[0]
    if first is None or name in found[0].constants:
        return None
    return first if all(value is not None and np.array_equal(first, value) for value in values) else None


def _shapes(found: Sequence[Measured], name: str) -> list[Shape] | None:
    """The shapes of `name`, if all are known."""
    shapes = [one.shapes.get(name) for one in found]
    return None if None in shapes else shapes  # type: ignore[return-value]


def _target(found: Sequence[Measured], node: onnx.NodeProto) -> Array | None:
    """A Reshape's target that does not depend on dynamic axes, where one can be written."""
    taken, given = _shapes(found, node.input[0]), _shapes(found, node.output[0])
    if taken is None or given is None:
        return None
    target = np.array(given[0], np.int64)
    varying = [axis for axis in range(target.size) if len({shape[axis] for shape in given}) > 1]
    left = []
    for axis in varying:
        pairs = zip(taken, given, strict=True)
        kept = all(axis < len(one) and one[axis] == other[axis] for one, other in pairs)
        if kept and len(varying) > 1:
            target[axis] = 0
        else:
            left.append(axis)
    if len(left) > 1:
        return None
    target[left] = -1
    return target


def _does_nothing(found: Sequence[Measured], node: onnx.NodeProto, constants: _Constants) -> bool:
    """Whether `node` pads by nothing, or takes a slice that is everything for any size."""
    arguments = [constants.value_of(name) for name in node.input[1:]]
    if node.op_type == "Pad":
        return bool(arguments) and arguments[0] is not None and not arguments[0].any()
    if node.op_type != "Slice" or len(arguments) < 3 or any(value is None for value in arguments):
        return False
    starts, ends, axes, *steps = (np.asarray(value) for value in arguments)
    lengths = _shapes(found, node.input[0])
    if lengths is None or starts.any() or any((step != 1).any() for step in steps):
        return False
    for end, axis in zip(ends, axes, strict=True):
        sizes = {shape[axis] for shape in lengths}
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
