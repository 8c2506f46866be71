"""Keys and values without their biases, where attention is one operator: the same is computed with fewer sums.

A key's bias b adds q·b to all scores of a query, and softmax does not change when all scores grow by the same: it is
left out. Shares of attention add up to 1, so that a value's bias comes out as it went in, and goes through the product
behind: (a + b) · W + c = a · W + (b · W + c), of which the bracket is constant. onnxruntime works it out once, when it
loads the file. Both leave two passes over memory to a layer's three.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from florence2_sam2.export.constant_shapes import prune
from florence2_sam2.export.measured_shapes import Shape, measure

KEY, VALUE = 1, 2  # inputs of MultiHeadAttention
_MOVES = ("Reshape", "Transpose")


class _Sum(NamedTuple):
    """The sum of a value and a constant row, and which of its inputs is the row."""

    node: onnx.NodeProto
    row: int


def move_biases(model: onnx.ModelProto, sizes: Mapping[str, Shape]) -> None:
    """Take the biases of keys and values out of every MultiHeadAttention of `model`. In place.

    Args:
        sizes: shapes of the inputs, of any batch.
    """
    graph = _Graph(model, sizes)
    before: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type != "MultiHeadAttention":
            continue
        if (key := graph.sum_before(node.input[KEY])) is not None:
            graph.leave_out(key)
        value, behind = graph.sum_before(node.input[VALUE]), graph.product_behind(node.output[0])
        if value is not None and behind is not None:
            graph.leave_out(value)
            product, addition = behind
            bias, name = addition.node.input[addition.row], product.name
            before[name] = [
                helper.make_node(
                    "MatMul",
                    [value.node.input[value.row], product.input[1]],
                    [f"{name}/of_values"],
                    f"{name}/MatMul_of_values",
                ),
                helper.make_node(
                    "Add", [f"{name}/of_values", bias], [f"{name}/with_values"], f"{name}/Add_of_values"
                ),
            ]
            addition.node.input[addition.row] = f"{name}/with_values"
    nodes = [other for node in model.graph.node for other in (*before.get(node.name, ()), node)]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(copies)
    prune(model)


class _Graph:
    """A graph, and what is known of its values."""

    def __init__(self, model: onnx.ModelProto, sizes: Mapping[str, Shape]) -> None:
        self._shapes = measure(model, sizes).shapes
        self._constants = {tensor.name for tensor in model.graph.initializer}
        self._made: dict[str, onnx.NodeProto] = {}
        self._users: dict[str, list[onnx.NodeProto | None]] = defaultdict(list)
        for node in model.graph.node:
            if self._constants.issuperset(node.input):
                self._constants.update(node.output)
            self._made.update(dict.fromkeys(node.output, node))
            for name in node.input:
                self._users[name].append(node)
        for value in model.graph.output:
            self._users[value.name].append(None)

    def sum_before(self, name: str) -> _Sum | None:
        """The sum with a constant row [C] that a value [..., C] is, if only its rows have been moved since."""
        moves: list[onnx.NodeProto] = []
        last = name
        while name in self._made and self._user(name) is not None:
            node = self._made[name]
            if node.op_type in _MOVES:
                moves.insert(0, node)
                name = node.input[0]
                continue
            row = self._row(node)
            fits = row is not None and self._keep_columns(moves, name, last)
            return _Sum(node, row) if row is not None and fits else None
        return None

    def product_behind(self, name: str) -> tuple[onnx.NodeProto, _Sum] | None:
        """The product of a value with a constant matrix, and the sum of that with a constant row, if nothing else is
        made of the value and only its rows are moved before."""
        moves: list[onnx.NodeProto] = []
        first = name
        while (node := self._user(name)) is not None:
            if node.op_type in _MOVES and node.input[0] == name:
                moves.append(node)
                name = node.output[0]
                continue
            if node.op_type != "MatMul" or node.input[0] != name or not self._is_constant(node.input[1], 2):
                return None
            addition = self._user(node.output[0])
            row = self._row(addition) if addition is not None else None
            if addition is None or row is None or not self._keep_columns(moves, first, name):
                return None
            return node, _Sum(addition, row)
        return None

    def leave_out(self, addition: _Sum) -> None:
        """Let what takes the sum take what the row was added to."""
        user = self._user(addition.node.output[0])
        assert user is not None
        for index, name in enumerate(user.input):
            if name == addition.node.output[0]:
                user.input[index] = addition.node.input[1 - addition.row]

    def _user(self, name: str) -> onnx.NodeProto | None:
        """The node that takes a value, if there is one only."""
        users = self._users[name]
        return users[0] if len(users) == 1 else None

    def _row(self, node: onnx.NodeProto) -> int | None:
        """Which input of a sum is a constant row."""
        if node.op_type != "Add" or self._constants.issuperset(node.input):
            return None
        return next((index for index, name in enumerate(node.input) if self._is_constant(name, 1)), None)

    def _is_constant(self, name: str, axes: int) -> bool:
        return name in self._constants and len(self._shapes.get(name, ())) == axes

    def _keep_columns(self, moves: list[onnx.NodeProto], first: str, last: str) -> bool:
        """Whether each number of a value is in the same column after the moves as before."""
        names = [first, *(node.output[0] for node in moves)]
        if any(name not in self._shapes for name in names):
            return False
        columns: NDArray[np.int32] = np.arange(self._shapes[first][-1], dtype=np.int32)
        moved = np.broadcast_to(columns, self._shapes[first])
        for node in moves:
            if node.op_type == "Reshape":
                moved = moved.reshape(self._shapes[node.output[0]])
            else:
                moved = moved.transpose(helper.get_node_attr_value(node, "perm"))
        return moved.shape[-1] == columns.size and bool((moved == columns).all())
