"""Which nodes of an ONNX graph TensorRT's parser does not take: what can be known without TensorRT and a GPU.

A graph with one of them cannot become a plan. Under ONNX Runtime's TensorRT provider the CUDA provider computes it, and
the graph falls into pieces around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import TensorProto

from florence2_sam2.export.precision import tensor_types

# From docs/operators.md of onnx/onnx-tensorrt at this release. TensorRT 11 has only added operators to it, says the
# CHANGELOG.md of NVIDIA/TensorRT; it takes opset 25, too.
RELEASE = "10.15"
OPSETS = range(9, 25)

# By the element types that they take: floating point (float32, float16, bfloat16), integers too (int32, int64), truth
# values.
_FLOATS = """
    Acos Acosh Asin Asinh Atan Atanh Attention AveragePool BatchNormalization BlackmanWindow Ceil Celu Clip Conv
    ConvTranspose Cos Cosh CumSum DeformConv Dropout Einsum Elu Erf Exp Floor Gemm GlobalAveragePool GlobalLpPool
    GlobalMaxPool GridSample GroupNormalization GRU HammingWindow HannWindow HardSigmoid HardSwish Hardmax
    InstanceNormalization IsInf LayerNormalization LeakyRelu Log LogSoftmax LRN LSTM LpNormalization LpPool MatMul
    MaxPool MeanVarianceNormalization Mish NonMaxSuppression NonZero PRelu RandomNormal RandomNormalLike RandomUniform
    RandomUniformLike Reciprocal RMSNormalization RNN RoiAlign RotaryEmbedding Round Scan Selu Sigmoid Sin Sinh Softmax
    Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample
"""
_NUMBERS = """
    Abs Add ArgMax ArgMin DepthToSpace Div Equal Gelu Greater GreaterOrEqual IsNaN Less LessOrEqual Max Mean Min Mod Mul
    Neg Pad Pow Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu ScatterElements ScatterND Shrink Sign SpaceToDepth Sub Sum TensorScatter TopK
"""
_TRUTH_VALUES = "And Not Or Xor"
_ALL = """
    Cast CastLike Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If Loop
    OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze Where
"""
# Their inputs are of fixed types, or tell of types themselves.
_OF_ANY_TYPE = "DequantizeLinear QuantizeLinear Resize STFT"

FLOATS = frozenset([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16])
NUMBERS = FLOATS | {TensorProto.INT32, TensorProto.INT64}
TYPES: dict[str, frozenset[int]] = {
    **dict.fromkeys(_FLOATS.split(), FLOATS),
    **dict.fromkeys(_NUMBERS.split(), NUMBERS),
    **dict.fromkeys(_TRUTH_VALUES.split(), frozenset([TensorProto.BOOL])),
    **dict.fromkeys(_ALL.split(), NUMBERS | {TensorProto.BOOL}),
    # Pictures as bytes may be an input of the graph, and cast.
    "Cast": NUMBERS | {TensorProto.BOOL, TensorProto.UINT8},
    **dict.fromkeys(_OF_ANY_TYPE.split(), frozenset[int]()),
}
# Not the first input is what their type is about.
_DATA_INPUT = {"Where": 1, "ConstantOfShape": None, "Constant": None, "Range": None, "If": None, "Loop": None}


@dataclass(frozen=True)
class Refused:
    """A node that TensorRT does not take, or `node` "" for the graph itself, and why."""

    node: str
    operator: str
    why: str

    def __str__(self) -> str:
        return f"{self.operator} {self.node}: {self.why}".replace(" :", ":")


def refused(model: onnx.ModelProto) -> list[Refused]:
    """What of `model` TensorRT does not take, as far as operators, element types and the restrictions in its list say.

    A graph without any may still be refused: shapes and memory show on the GPU only.
    """
    found = [
        Refused("", f"opset {row.version}", f"TensorRT {RELEASE} takes {OPSETS.start} to {OPSETS.stop - 1}")
        for row in model.opset_import
        if row.domain in ("", "ai.onnx") and row.version not in OPSETS
    ]
    known = _Known(model)
    for node in model.graph.node:
        found += [Refused(node.name, node.op_type, why) for why in _reasons(node, known)]
    return found


class _Known:
    """Types of the tensors, and those whose values the file says."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.types = tensor_types(model)
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}


def _reasons(node: onnx.NodeProto, known: _Known) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"operators of {node.domain} are unknown to it"
        return
    if node.op_type not in TYPES:
        yield f"not among the operators of TensorRT {RELEASE}"
        return
    taken = TYPES[node.op_type]
    place = _DATA_INPUT.get(node.op_type, 0)
    if taken and place is not None:
        given = known.types.get(node.input[place], TensorProto.UNDEFINED)
        if given not in (*taken, TensorProto.UNDEFINED):
            yield f"it does not take {TensorProto.DataType.Name(given)}"
    if node.op_type in _RESTRICTIONS:
        why = _RESTRICTIONS[node.op_type](node, known)
        if why:
            yield why


def _constant(place: int, what: str) -> Callable[[onnx.NodeProto, _Known], str]:
    def check(node: onnx.NodeProto, known: _Known) -> str:
        given = node.input[place] if len(node.input) > place else ""
        return "" if not given or given in known.constants else f"{what} must be in the file, not computed"

    return check


def _layer_norm(node: onnx.NodeProto, known: _Known) -> str:
    return "only its first output is supported" if any(node.output[1:]) else ""


def _resize(node: onnx.NodeProto, known: _Known) -> str:
    given = _attributes(node)
    if given.get("mode", b"nearest") not in (b"nearest", b"linear"):
        return f"mode {given['mode'].decode()} is not supported"
    if given.get("antialias", 0):
        return "antialiasing is not supported"
    modes = (b"half_pixel", b"pytorch_half_pixel", b"tf_half_pixel_for_nn", b"asymmetric", b"align_corners")
    if given.get("coordinate_transformation_mode", b"half_pixel") not in modes:
        return f"coordinates of mode {given['coordinate_transformation_mode'].decode()} are not supported"
    return ""


def _scatter(node: onnx.NodeProto, known: _Known) -> str:
    reduction = _attributes(node).get("reduction", b"none")
    return "" if reduction == b"none" else f"reduction {reduction.decode()} is not supported"


def _top_k(node: onnx.NodeProto, known: _Known) -> str:
    return "" if _attributes(node).get("sorted", 1) else "sorted must be 1"


def _constant_value(node: onnx.NodeProto, known: _Known) -> str:
    wrong = {"sparse_value", "value_string", "value_strings"} & {row.name for row in node.attribute}
    return f"{wrong.pop()} is not supported" if wrong else ""


def _max_pool(node: onnx.NodeProto, known: _Known) -> str:
    if any(node.output[1:]):
        return "its indices are not supported"
    if any(size != 1 for size in _attributes(node).get("dilations", [])):
        return "dilations are not supported"
    return ""


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {row.name: onnx.helper.get_attribute_value(row) for row in node.attribute}


_REDUCTIONS = [name for name in TYPES if name.startswith("Reduce")]
_RESTRICTIONS: dict[str, Callable[[onnx.NodeProto, _Known], str]] = {
    **{name: _constant(1, "axes") for name in _REDUCTIONS},
    "Constant": _constant_value,
    "CumSum": _constant(1, "axis"),
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "OneHot": _constant(1, "depth"),
    "Resize": _resize,
    "ScatterND": _scatter,
    "TopK": _top_k,
    "Unsqueeze": _constant(1, "axes"),
}
