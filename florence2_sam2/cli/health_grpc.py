"""`florence2-sam2 health` over gRPC."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

from florence2_sam2.cli.health import NotWell
from florence2_sam2.client import connection, errors, request


class Grpc:
    """A server's gRPC endpoint.

    Raises:
        ValueError: `url` is no address of a gRPC server, or has files of TLS without TLS.
        OSError: a file of TLS cannot be read.
    """

    def __init__(self, url: str, ca: str | None, certificate: str | None, key: str | None) -> None:
        self._address = connection.parse_address(url)
        files = connection.Options(root_certificates=ca, private_key=key, certificate_chain=certificate)
        self._client = InferenceServerClient(**files.arguments(self._address))

    def health(self, seconds: float) -> dict[str, Any]:
        return self._ask({}, {"health": True}, seconds)

    def segment(self, picture: bytes, options: dict[str, Any], seconds: float) -> dict[str, Any]:
        return self._ask({"image": picture, "options": json.dumps(options).encode()}, {}, seconds)

    def _ask(self, inputs: dict[str, bytes], parameters: dict[str, bool], seconds: float) -> dict[str, Any]:
        tensors = []
        for name, value in inputs.items():
            tensor = InferInput(name, [1], "BYTES")
            tensor.set_data_from_numpy(np.array([value], np.object_))
            tensors.append(tensor)
        try:
            answer = self._client.infer(
                request.MODEL,
                tensors,
                outputs=[InferRequestedOutput("result")],
                parameters=parameters,
                client_timeout=seconds,
            )
        except InferenceServerException as error:
            failure = errors.from_triton(error, str(self._address), seconds)
            if isinstance(failure, errors.CannotConnect) and not failure.broke:
                raise NotWell(f"no server answers there ({failure.message.rpartition(': ')[2]})") from None
            raise NotWell(failure.message) from None
        told: dict[str, Any] = json.loads(answer.as_numpy("result")[0])
        return told
