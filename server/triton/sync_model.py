"""A python model that answers its requests one after the other: the short, compute-bound ones."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from florence2_sam2.server.errors import Cancelled
from florence2_sam2.server.triton import failures
from florence2_sam2.server.triton.memory import check_room

if TYPE_CHECKING:
    from triton_python_backend_utils import InferenceRequest, InferenceResponse, Tensor


class SyncModel:
    """Base of a `TritonPythonModel` with one plain method. A subclass writes `answer`, and `start` where it
    has something to load.

    Attributes:
        name: the model's name.
        folder: its version folder, where its files lie.
        repository: the model repository.
        config: `config.pbtxt` (or the named one in use) as a dict.
    """

    def initialize(self, args: dict[str, str]) -> None:
        self.name = args["model_name"]
        self.repository = Path(args["model_repository"]).parent
        self.folder = Path(args["model_repository"]) / args["model_version"]
        self.config: dict[str, Any] = json.loads(args["model_config"])
        self.start()

    def execute(self, requests: list[InferenceRequest]) -> list[InferenceResponse]:
        return [self._serve(request) for request in requests]

    def finalize(self) -> None:
        """What Python has not thrown away yet may hold shared memory, which is gone when the interpreter ends: the
        process would crash there (24.10)."""
        gc.collect()

    def start(self) -> None:
        """Load what the model needs."""

    def answer(self, request: InferenceRequest) -> list[Tensor]:
        """Answer one request: the outputs, or a ServiceError raised. Any other exception is a bug."""
        raise NotImplementedError

    def _serve(self, request: InferenceRequest) -> InferenceResponse:
        import triton_python_backend_utils as pb_utils

        try:
            # Another model of ours passes no cancellation on, and asking takes a tenth of a millisecond.
            if not failures.is_between_models(request) and request.is_cancelled():
                raise Cancelled("the caller has gone")
            tensors = self.answer(request)
            check_room(tensors)
            return pb_utils.InferenceResponse(output_tensors=tensors)
        except Exception as error:  # an error fails its own request only, never the others of the batch
            refusal = failures.refusal(error, self.name)
            between_models = failures.is_between_models(request)
            # Its frames hold the request, and they hold each other: see `finalize`.
            error.__traceback__ = None
            return pb_utils.InferenceResponse(
                output_tensors=[], error=failures.to_triton(refusal, between_models)
            )
