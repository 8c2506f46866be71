"""Layer norms of a small model as onnxruntime computes them fastest on a CPU: InstanceNormalization, scaled later.

onnxruntime shares a layer norm out row by row. On two cores that took twice as long for rows of 24 as in one thread
(1.1 and 0.5 ms for 16384 of them); its InstanceNormalization of the same rows, one thread and vector instructions,
took 0.4. It has a scale and a shift for each row; those of a layer norm, one for each column, go into the products
behind it:

    (n ∘ scale + shift) · W + b  =  n · (scaleᵀ ∘ W) + (shift · W + b)

What is constant in this onnxruntime works out once, when it loads the file, so that W stays as it is stored. Large
models, whose sessions have every core, keep their layer norms.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from florence2_sam2.export.constant_shapes import prune
from florence2_sam2.export.measured_shapes import Shape, measure

# Whose result is constant if what they take is.
_OF_CONSTANTS = ("Constant", "Identity", "Cast")


@dataclass(frozen=True)
class _Product:
    """A product with a constant matrix, and the constant row that is added to it."""

    node: onnx.NodeProto
    addition: onnx.NodeProto
    row: int  # which of the addition's inputs


@dataclass(frozen=True)
class _Norm:
    node: onnx.NodeProto
    shape: Shape  # of one picture, of at least 2 axes
    products: list[_Product]


def scale_in_products(model: onnx.ModelProto, sizes: Iterable[Mapping[str, Shape]]) -> None:
    """Rewrite every layer norm over the last axis of which products with constant matrices are made and nothing else.

    In place. The results are the same but for rounding.

    Args:
        sizes: shapes of the inputs, as `constant_shapes.probes` gives them.
    """
    norms = {norm.node.name: norm for norm in _Graph(model, sizes).norms()}
    if not norms:
        return
    graph = model.graph
    rewritten: list[onnx.NodeProto] = []
    for node in graph.node:
        rewritten += _rewritten(graph, norms[node.name]) if node.name in norms else [node]
    # Copies: what a list of protobuf holds goes when it is emptied.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in rewritten]
    del graph.node[:]
    graph.node.extend(nodes)
    prune(model)


class _Graph:
    """A graph, and what is known of its values."""

    def __init__(self, model: onnx.ModelProto, sizes: Iterable[Mapping[str, Shape]]) -> None:
        self._graph = model.graph
        self._shapes = [measure(model, shapes).shapes for shapes in sizes]
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._outputs = {value.name for value in model.graph.output}
        self._users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            if node.op_type in _OF_CONSTANTS and self._constants.issuperset(node.input):
                self._constants.update(node.output)
            for name in node.input:
                self._users[name].append(node)

    def norms(self) -> Iterator[_Norm]:
        for node in self._graph.node:
            if node.op_type != "LayerNormalization" or len(node.input) != 3 or not node.name:
                continue
            shape = self._fixed(node.input[0])
            products = self._products(node.output[0])
            last = shape is not None and _attribute(node, "axis", -1) in (-1, len(shape))
            if shape is not None and last and products and self._constants.issuperset(node.input[1:]):
                yield _Norm(node, shape, products)

    def _fixed(self, name: str) -> Shape | None:
        """All axes of a value but the first, if they are at least 2 and the same whatever the batch."""
        shapes = {shapes[name][1:] if name in shapes else () for shapes in self._shapes}
        return next(iter(shapes)) if len(shapes) == 1 and all(len(shape) >= 2 for shape in shapes) else None

    def _products(self, name: str) -> list[_Product]:
        """The products made of a value [..., C] if nothing else is, and only the order of its rows changes before."""
        found: list[_Product] = []
        for node in self._users[name] if name not in self._outputs else []:
            behind = self._moved(node, name) or self._product(node, name)
            if not behind:
                return []
            found += behind
        return found

    def _moved(self, node: onnx.NodeProto, name: str) -> list[_Product]:
        if node.op_type not in ("Reshape", "Transpose") or node.input[0] != name:
            return []
        before, after = self._fixed(name), self._fixed(node.output[0])
        if before is None or after is None or before[-1] != after[-1]:
            return []
        order = _attribute(node, "perm", None)
        return self._products(node.output[0]) if order is None or order[-1] == len(order) - 1 else []

    def _product(self, node: onnx.NodeProto, name: str) -> list[_Product]:
        if node.op_type != "MatMul" or node.input[0] != name or not self._is_constant(node.input[1], axes=2):
            return []
        users = self._users[node.output[0]]
        if len(users) != 1 or users[0].op_type != "Add" or node.output[0] in self._outputs:
            return []
        row = 1 - list(users[0].input).index(node.output[0])
        return [_Product(node, users[0], row)] if self._is_constant(users[0].input[row], axes=1) else []

    def _is_constant(self, name: str, axes: int) -> bool:
        return name in self._constants and len(self._shapes[0].get(name, ())) == axes


def _rewritten(graph: onnx.GraphProto, norm: _Norm) -> list[onnx.NodeProto]:
    """The nodes in place of a layer norm. Changes the products behind it."""
    node, (*positions, width) = norm.node, norm.shape
    (taken, scale, shift), given, name = node.input, node.output[0], node.name
    count = int(np.prod(positions))

    def constant(what: str, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        graph.initializer.append(numpy_helper.from_array(value, f"{name}/{what}"))
        return f"{name}/{what}"

    def repeated(what: str, value: float) -> onnx.NodeProto:
        one = constant(what, np.array([value], np.float32))
        return helper.make_node("Expand", [one, times], [f"{name}/{what}s"], f"{name}/Expand_{what}")

    times = constant("times", np.array([count], np.int64))
    nodes = [repeated("one", 1), repeated("zero", 0)]
    flat = len(positions) == 1
    rows = taken if flat else f"{name}/rows"
    normalised = given if flat else f"{name}/normalised"
    if not flat:
        shape = constant("rows_shape", np.array([-1, count, width], np.int64))
        nodes.append(helper.make_node("Reshape", [taken, shape], [rows], f"{name}/Reshape"))
    nodes.append(
        helper.make_node(
            "InstanceNormalization",
            [rows, f"{name}/ones", f"{name}/zeros"],
            [normalised],
            f"{name}/InstanceNormalization",
            epsilon=_attribute(node, "epsilon", 1e-5),
        )
    )
    if not flat:
        shape = constant("shape", np.array([-1, *norm.shape], np.int64))
        nodes.append(helper.make_node("Reshape", [normalised, shape], [given], f"{name}/Reshape_1"))
    column = constant("column", np.array([width, 1], np.int64))
    nodes.append(helper.make_node("Reshape", [scale, column], [f"{name}/scale"], f"{name}/Reshape_2"))
    for product in norm.products:
        (_, weights), bias = product.node.input, product.addition.input[product.row]
        own = product.node.name
        scaled, shifted, added = f"{own}/scaled", f"{own}/shifted", f"{own}/added"
        nodes += [
            helper.make_node("Mul", [f"{name}/scale", weights], [scaled], f"{own}/Mul"),
            helper.make_node("MatMul", [shift, weights], [shifted], f"{own}/MatMul"),
            helper.make_node("Add", [shifted, bias], [added], f"{own}/Add"),
        ]
        product.node.input[1] = scaled
        product.addition.input[product.row] = added
    return nodes


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(row) for row in node.attribute if row.name == name), default)
