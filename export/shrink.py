"""Store equal weights once: exporters write a tied embedding and a head, or one constant per use, several times."""

from __future__ import annotations

import hashlib

import onnx


def share_equal_initializers(model: onnx.ModelProto) -> None:
    """Give initializers of equal type, shape and bytes one name, in place."""
    kept: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    unique = []
    for tensor in model.graph.initializer:
        content = tensor.raw_data or tensor.SerializeToString(deterministic=True)
        if not tensor.raw_data:
            anonymous = onnx.TensorProto()
            anonymous.CopyFrom(tensor)
            anonymous.ClearField("name")
            content = anonymous.SerializeToString(deterministic=True)
        key = (tensor.data_type, tuple(tensor.dims), hashlib.sha256(content).digest())
        if key in kept:
            renamed[tensor.name] = kept[key]
        else:
            kept[key] = tensor.name
            unique.append(tensor)
    if not renamed:
        return
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]
    del model.graph.initializer[:]
    model.graph.initializer.extend(unique)
