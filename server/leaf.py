"""The embedded form of a leaf model: a python model that runs the ONNX file beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.onnx_session import open_session, threads_alone
from florence2_sam2.server.triton import bls, failures
from florence2_sam2.server.triton.sync_model import SyncModel
from florence2_sam2.server.triton.tensors import array_input, array_output, required

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, Tensor

MODEL_FILE = "model.onnx"


class LeafError(Exception):
    """The model file does not fit the config: the model cannot be loaded."""


class OnnxModel(SyncModel):
    """One request, one run. Inputs and outputs are those of the config, whose names are the graph's.

    A small model has one thread, which serves many callers best, and a second session with more for a request that has
    the machine to itself. The results are the same, bit for bit.
    """

    def start(self) -> None:
        self._inputs = [row["name"] for row in self.config["input"]]
        self._outputs = [row["name"] for row in self.config["output"]]
        self._session = self._alone = open_session(self.folder / MODEL_FILE)
        have = sorted(node.name for node in self._session.get_inputs() + self._session.get_outputs())
        if have != sorted(self._inputs + self._outputs):
            raise LeafError(f"{self.name}: {MODEL_FILE} has the tensors {', '.join(have)}, unlike its config")
        if wide := threads_alone(self.folder / MODEL_FILE):
            self._alone = open_session(self.folder / MODEL_FILE, intra_op_threads=wide)
        self._ranks = {node.name: len(node.shape) for node in self._session.get_inputs()}

    def answer(self, request: InferenceRequest) -> list[Tensor]:
        feeds: dict[str, Any] = {}
        for name in self._inputs:
            array = array_input(request, name, np.float32, [None] * self._ranks[name])
            feeds[name] = required(array, name)
            if not feeds[name].size:
                raise InvalidRequest(name, "is empty")
        session = self._alone if bls.ALONE in failures.parameters(request) else self._session
        arrays = session.run(self._outputs, feeds)
        return [array_output(name, array) for name, array in zip(self._outputs, arrays, strict=True)]
