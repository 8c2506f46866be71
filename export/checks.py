"""An exported graph beside transformers: same outputs for several shapes, within stated tolerances."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.graphs import Form, Graph
from florence2_sam2.server.manifest import Parity
from florence2_sam2.server.onnx_session import CPU, is_small, open_session

Array = NDArray[Any]

# onnxruntime's errors have no base class of their own.
_RUNTIME_ERRORS = (
    failures.Fail,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NotImplemented,
    failures.RuntimeException,
)

# Allowed error as a fraction of the reference output's largest magnitude (at least 1). float32: what differently
# ordered sums give. float16 has 11 bits: each value is good to 5e-4, and a network's many sums multiply that; scores
# come out of a sigmoid, which shrinks errors again. int8: 1.5e-2 was seen with the small checkpoint and 2.2e-2 with
# twelve layers of random weights; 4 bits give 8e-2 and more.
TOLERANCES: dict[Form, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": 4e-2}
TOLERANCES_BY_OUTPUT: dict[Form, dict[str, float]] = {"fp16": {"scores": 5e-3}}


@dataclass(frozen=True)
class Case:
    """One run: inputs, and what transformers makes of them. NaN marks entries with no meaning (padding).

    Where transformers' own answer hangs on rounding, `expected` is a function that takes the outputs and picks the
    admissible answer they are meant to be.
    """

    label: str
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array] | Callable[[Mapping[str, Array]], Mapping[str, Array]]


@dataclass(frozen=True)
class Row:
    """A line of the parity table: one output (or family: `new_key` for all layers) over all cases of its graph."""

    graph: str
    output: str
    max_abs_error: float
    tolerance: float

    @property
    def passed(self) -> bool:
        # written so that NaN fails
        return self.max_abs_error <= self.tolerance


def check_graph(
    graph: Graph, path: Path, cases: Iterable[Case], form: Form, tolerance: float | None = None
) -> list[Row]:
    """Run the file on every case and compare all its outputs; `tolerance` replaces the table's.

    Raises:
        ExportError: the file does not load, a case does not run, or an output has a shape other than declared.
    """
    session = open_graph(path)
    declared = [tensor.name for tensor in graph.outputs]
    if [output.name for output in session.get_outputs()] != declared:
        raise ExportError(f"{graph.file}: its outputs are not {declared}")
    errors: dict[str, float] = {}
    scales: dict[str, float] = {}
    for case in cases:
        found = run(session, graph.file, case.label, case.inputs)
        _require_shapes(graph, case, found)
        answers = case.expected(found) if callable(case.expected) else case.expected
        for name, expected in answers.items():
            family = _family(name)
            error, scale = compare(found[name], expected)
            # numpy's maximum keeps a NaN, which an output that is no number gives
            errors[family] = float(np.maximum(errors.get(family, 0.0), error))
            scales[family] = max(scales.get(family, 1.0), scale)
    return [row(graph, family, error, scales[family], form, tolerance) for family, error in errors.items()]


def row(
    graph: Graph,
    output: str,
    error: float,
    scale: float,
    form: Form,
    tolerance: float | None = None,
) -> Row:
    """`scale` is the reference's largest magnitude, to which the tolerance is relative."""
    if tolerance is None:
        tolerance = TOLERANCES_BY_OUTPUT.get(form, {}).get(output, TOLERANCES[form])
    return Row(graph.file, output, error, tolerance * max(1.0, scale))


def _family(name: str) -> str:
    """`new_key_3` → `new_key`: the layers share a line of the table."""
    return re.sub(r"_(key|value)_\d+$", r"_\1", name)


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    try:
        # For a graph of thousands of nodes onnxruntime plans its use of memory for many seconds.
        return open_session(path, providers=[CPU], reuse_memory=not is_small(path))
    except _RUNTIME_ERRORS as error:
        raise ExportError(f"onnxruntime cannot load {path.name}: {error}") from None


def run(
    session: onnxruntime.InferenceSession, file: str, label: str, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    try:
        values = session.run(None, dict(inputs))
    except _RUNTIME_ERRORS as error:
        raise ExportError(f"{file} does not run with {label}: {error}") from None
    return dict(zip([output.name for output in session.get_outputs()], values, strict=True))


def compare(found: Array, expected: Array) -> tuple[float, float]:
    """Largest absolute difference where `expected` is not NaN, and the largest magnitude there."""
    if found.shape != expected.shape:
        raise ExportError(f"a shape is {found.shape}, not {expected.shape}")
    meant = ~np.isnan(expected)
    difference = np.abs(found[meant].astype(np.float64) - expected[meant])
    return float(difference.max()), float(np.abs(expected[meant]).max())


def parity(rows: Iterable[Row]) -> dict[str, Parity]:
    """The rows as the manifest keeps them: `file:output` → error and tolerance."""
    return {f"{row.graph}:{row.output}": Parity(row.max_abs_error, row.tolerance) for row in rows}


def table(rows: Iterable[Row]) -> str:
    """The rows as text for a terminal."""
    lines = [f"{'graph':<40} {'output':<20} {'max abs error':>13} {'tolerance':>10}  ok"]
    for row in rows:
        lines.append(
            f"{row.graph:<40} {row.output:<20} {row.max_abs_error:>13.2e} {row.tolerance:>10.1e}  "
            f"{'yes' if row.passed else 'NO'}"
        )
    return "\n".join(lines)


def _require_shapes(graph: Graph, case: Case, found: Mapping[str, Array]) -> None:
    """Declared sizes hold, and an axis named in the inputs has the size that the inputs gave it."""
    sizes: dict[str, int] = {}
    for tensor in graph.inputs:
        for axis, size in zip(tensor.axes, case.inputs[tensor.name].shape, strict=True):
            if isinstance(axis, str):
                sizes.setdefault(axis, size)
    for tensor in graph.outputs:
        shape = found[tensor.name].shape
        wanted = tuple(sizes.get(axis, -1) if isinstance(axis, str) else axis for axis in tensor.axes)
        if len(shape) != len(wanted) or any(w not in (-1, s) for w, s in zip(wanted, shape, strict=True)):
            raise ExportError(
                f"{graph.file}: {tensor.name} has the shape {shape} with {case.label}, not {wanted}"
            )
