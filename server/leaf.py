"""The embedded form of a leaf model: a python model that runs the ONNX file beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.onnx_session import open_session, session_alone
from florence2_sam2.server.triton import bls, failures
from florence2_sam2.server.triton.sync_model import SyncModel
from florence2_sam2.server.triton.tensors import array_input, array_output, required

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg
    from triton_python_backend_utils import InferenceRequest, Tensor

MODEL_FILE = "model.onnx"
# Of the leaf models' inputs, as onnxruntime names them.
TYPES: dict[str, type[Any]] = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


class LeafError(Exception):
    """The model file does not fit the config: the model cannot be loaded."""


class OnnxModel(SyncModel):
    """One request, one run. Inputs and outputs are those of the config, whose names are the graph's."""

    def start(self) -> None:
        self._inputs = [row["name"] for row in self.config["input"]]
        self._outputs = [row["name"] for row in self.config["output"]]
        self._session = open_session(self.folder / MODEL_FILE)
        have = sorted(node.name for node in self._session.get_inputs() + self._session.get_outputs())
        if have != sorted(self._inputs + self._outputs):
            raise LeafError(f"{self.name}: {MODEL_FILE} has the tensors {', '.join(have)}, unlike its config")
        self._taken = {
            node.name: (self._type(node), [None] * len(node.shape)) for node in self._session.get_inputs()
        }

    def answer(self, request: InferenceRequest) -> list[Tensor]:
        feeds: dict[str, Any] = {}
        for name in self._inputs:
            feeds[name] = required(array_input(request, name, *self._taken[name]), name)
            if not feeds[name].size:
                raise InvalidRequest(name, "is empty")
        arrays = self.session_for(request).run(self._outputs, feeds)
        return [array_output(name, array) for name, array in zip(self._outputs, arrays, strict=True)]

    def session_for(self, request: InferenceRequest) -> InferenceSession:
        """Which of its sessions runs the request."""
        return self._session

    def _type(self, node: NodeArg) -> type[Any]:
        if node.type not in TYPES:
            raise LeafError(f"{self.name}: {node.name} of {MODEL_FILE} is a {node.type}: export again")
        return TYPES[node.type]


class EncoderModel(OnnxModel):
    """A picture's encoder. A small one has one thread, which serves many callers best, and a second session with more
    for a request that has the machine to itself."""

    def start(self) -> None:
        super().start()
        self._alone = session_alone(self.folder / MODEL_FILE, self._session, [self._noise()])

    def session_for(self, request: InferenceRequest) -> InferenceSession:
        return self._alone if bls.ALONE in failures.parameters(request) else self._session

    def _noise(self) -> dict[str, Any]:
        noise = np.random.default_rng(0)
        return {
            node.name: noise.integers(
                256, size=[side if isinstance(side, int) else 1 for side in node.shape], dtype=np.uint8
            )
            for node in self._session.get_inputs()
        }
