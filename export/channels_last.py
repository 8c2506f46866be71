"""A convolution between layers that have channels last, written so that onnxruntime need not transpose.

DaViT's blocks keep positions as rows, [B, H·W, C], and add to them what a convolution of [B, C, H, W] gives. The code
transposes the rows, convolves, adds, and transposes back; onnxruntime rearranges both ways again for a blocked layout
of its own. Adding the rows as they are, with 4-D transposes directly at the convolution, lets its optimizer make one
rearrangement of each pair. The same sums in the same order: no bit changes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper

from florence2_sam2.export.constant_shapes import prune

ROWS = [0, 2, 1]  # [B, C, H·W] ↔ [B, H·W, C]
TO_FIRST, TO_LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # channels


@dataclass(frozen=True)
class _Place:
    """A convolution, the rows it is applied to, and the node that gives their sum as rows."""

    convolution: onnx.NodeProto
    rows: str
    shape: tuple[int, int, int]  # C, H, W
    last: onnx.NodeProto
    rows_first: bool  # in the sum


def add_channels_last(model: onnx.ModelProto) -> None:
    """Rewrite every `rows + convolution(rows)` of `model` whose shape but for the batch is constant. In place."""
    graph = model.graph
    before: dict[str, list[onnx.NodeProto]] = {}
    instead: dict[str, list[onnx.NodeProto]] = {}
    for place in _places(graph):
        before[place.convolution.output[0]], instead[place.last.output[0]] = _rewritten(graph, place)
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        key = node.output[0]
        nodes += instead[key] if key in instead else [*before.get(key, []), node]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
    prune(model)


def _places(graph: onnx.GraphProto) -> list[_Place]:
    made = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            users[name].append(node)
    shapes = {
        tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT64
    }

    def only_user(name: str, kind: str) -> onnx.NodeProto | None:
        found = users[name]
        return found[0] if len(found) == 1 and found[0].op_type == kind else None

    places = []
    for convolution in graph.node:
        if convolution.op_type != "Conv":
            continue
        image = made.get(convolution.input[0])
        turned = made.get(image.input[0]) if image is not None and image.op_type == "Reshape" else None
        added = only_user(convolution.output[0], "Add")
        flat = only_user(added.output[0], "Reshape") if added is not None else None
        last = only_user(flat.output[0], "Transpose") if flat is not None else None
        if image is None or turned is None or added is None or flat is None or last is None:
            continue
        target = shapes.get(image.input[1])
        if not (_turns(turned) and _turns(last)) or image.output[0] not in added.input or target is None:
            continue
        sizes = [int(size) for size in numpy_helper.to_array(target)]
        if len(sizes) != 4 or min(sizes[1:]) < 1:
            continue
        channels, height, width = sizes[1:]
        rows_first = added.input[0] == image.output[0]
        places.append(_Place(convolution, turned.input[0], (channels, height, width), last, rows_first))
    return places


def _turns(node: onnx.NodeProto) -> bool:
    return node.op_type == "Transpose" and list(helper.get_node_attr_value(node, "perm")) == ROWS


def _rewritten(graph: onnx.GraphProto, place: _Place) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """The nodes before the convolution, and those in place of the one that gave the sum."""
    name, (channels, height, width) = place.convolution.name, place.shape
    image, rows = f"{name}/image_shape", f"{name}/rows_shape"
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([-1, height, width, channels], np.int64), image),
            numpy_helper.from_array(np.array([-1, height * width, channels], np.int64), rows),
        ]
    )
    before = [
        helper.make_node("Reshape", [place.rows, image], [f"{name}/last"], f"{name}/Reshape"),
        helper.make_node(
            "Transpose", [f"{name}/last"], [f"{name}/first"], f"{name}/Transpose", perm=TO_FIRST
        ),
    ]
    place.convolution.input[0] = f"{name}/first"
    made = f"{name}/made"
    terms = [place.rows, made] if place.rows_first else [made, place.rows]
    after = [
        helper.make_node(
            "Transpose",
            [place.convolution.output[0]],
            [f"{name}/turned"],
            f"{name}/Transpose_1",
            perm=TO_LAST,
        ),
        helper.make_node("Reshape", [f"{name}/turned", rows], [made], f"{name}/Reshape_1"),
        helper.make_node("Add", terms, list(place.last.output), f"{name}/Add"),
    ]
    return before, after
