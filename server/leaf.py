"""The embedded form of a leaf model: a python model that runs the ONNX file beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

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
Feeds: TypeAlias = dict[str, Any]  # an input's name → its array
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
        feeds: Feeds = {}
        for name in self._inputs:
            feeds[name] = required(array_input(request, name, *self._taken[name]), name)
            if not feeds[name].size:
                raise InvalidRequest(name, "is empty")
        arrays = self.session_for(request, feeds).run(self._outputs, feeds)
        return [array_output(name, array) for name, array in zip(self._outputs, arrays, strict=True)]

    def session_for(self, request: InferenceRequest, feeds: Feeds) -> InferenceSession:
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
        self._alone = session_alone(self.folder / MODEL_FILE, self._session, self.tries())

    def session_for(self, request: InferenceRequest, feeds: Feeds) -> InferenceSession:
        return self._alone if bls.ALONE in failures.parameters(request) else self._session

    def tries(self) -> list[Feeds]:
        """What the second session must answer as the first one does, bit by bit: noise."""
        return [self.noise(1)]

    def noise(self, count: int) -> Feeds:
        """Inputs whose dynamic axis has that length."""
        noise, feeds = np.random.default_rng(0), {}
        for node in self._session.get_inputs():
            shape = [side if isinstance(side, int) else count for side in node.shape]
            values = noise.integers(256, size=shape)
            feeds[node.name] = values.astype(self._type(node))
        return feeds


class MaskDecoderModel(EncoderModel):
    """SAM2's mask decoder, which takes a second session only for several boxes.

    onnxruntime gives each thread a part of a product's rows, or of its columns where they are more than the rows; with
    fewer columns it adds up in longer blocks, and the bits are others. Of the products of tokens with positions, which
    have 9 · heads rows a box and as many columns as a token is wide, that is so for fewer boxes than FEWEST.
    """

    FEWEST = 4  # in all of SAM2's sizes: 72 rows a box and 256 columns

    def session_for(self, request: InferenceRequest, feeds: Feeds) -> InferenceSession:
        several = len(feeds["boxes"]) >= self.FEWEST
        return super().session_for(request, feeds) if several else self._session

    def tries(self) -> list[Feeds]:
        return [self.noise(count) for count in (self.FEWEST, self.FEWEST + 1)]
