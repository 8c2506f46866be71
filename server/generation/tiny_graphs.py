"""Two ONNX graphs of a node or two, written byte by byte: the server has no package that writes ONNX, and onnxruntime
offers no other way to move or clear memory on a device.

Numbers of fields are those of onnx.proto (onnx/onnx), whose wire format is protobuf's.
"""

from __future__ import annotations

from collections.abc import Sequence

FLOAT, INT64 = 1, 7  # TensorProto.DataType
OPSET, IR_VERSION = 18, 8

# name, element type, axes by name
Tensor = tuple[str, int, Sequence[str]]


def move_rows() -> bytes:
    """`source` FP32 [S,D], `from` INT64 [M], `target` FP32 [T,D], `to` INT64 [M,1] → `moved` FP32 [T,D]: `target` with
    source[from] at the rows `to`, which must differ from each other.

    With `moved` bound to the memory of `target` nothing else is copied: ScatterND writes in place there. All is read
    before anything is written, so that `source` may be the same memory too.
    """
    return _model(
        [
            _node("Gather", ["source", "from"], ["rows"]),
            _node("ScatterND", ["target", "to", "rows"], ["moved"]),
        ],
        [
            ("source", FLOAT, ("S", "D")),
            ("from", INT64, ("M",)),
            ("target", FLOAT, ("T", "D")),
            ("to", INT64, ("M", "1")),
        ],
        [("moved", FLOAT, ("T", "D"))],
    )


def zeros() -> bytes:
    """`shape` INT64 [2] → `zeros` FP32 of that shape."""
    return _model(
        [_node("ConstantOfShape", ["shape"], ["zeros"])],
        [("shape", INT64, ("2",))],
        [("zeros", FLOAT, ("T", "D"))],
    )


def _model(nodes: Sequence[bytes], inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bytes:
    graph = b"".join(_bytes(1, node) for node in nodes) + _bytes(2, b"rows")
    graph += b"".join(_bytes(11, _tensor(*tensor)) for tensor in inputs)
    graph += b"".join(_bytes(12, _tensor(*tensor)) for tensor in outputs)
    return _number(1, IR_VERSION) + _bytes(7, graph) + _bytes(8, _number(2, OPSET))


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    named = b"".join(_bytes(1, name.encode()) for name in inputs)
    return named + b"".join(_bytes(2, name.encode()) for name in outputs) + _bytes(4, operator.encode())


def _tensor(name: str, kind: int, axes: Sequence[str]) -> bytes:
    """ValueInfoProto; an axis in digits is fixed."""
    dims = b"".join(
        _bytes(1, _number(1, int(axis)) if axis.isdigit() else _bytes(2, axis.encode())) for axis in axes
    )
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, kind) + _bytes(2, dims)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last have the eighth bit set."""
    written = b""
    while value > 127:
        written += bytes([value & 127 | 128])
        value >>= 7
    return written + bytes([value])
