"""The launcher's own requests to the server that it has started. They go to its HTTP endpoint, which asks for no
certificate, and past any proxy of the environment.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

SECONDS = 5.0


class NoAnswer(Exception):
    """Nothing was answered in time, or nobody listens. `message` says which."""


class Refused(Exception):
    """An answer with another status than 200. The message is Triton's, or a model's."""


@dataclass(frozen=True)
class Connection:
    """A server at `address` (host:port). `headers` go along with each request: what opens the administration."""

    address: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def get(self, path: str, seconds: float = SECONDS) -> Any:
        """The JSON at `path`; None where the answer is empty.

        Raises:
            NoAnswer, Refused.
        """
        return _parsed(self._ask("GET", path, None, {}, seconds))

    def post(self, path: str, body: Mapping[str, Any] | None = None, seconds: float = SECONDS) -> Any:
        """The JSON that is answered to `body`; None where the answer is empty.

        Raises:
            NoAnswer, Refused.
        """
        return _parsed(self._ask("POST", path, json.dumps(body or {}).encode(), {}, seconds))

    def infer(
        self, model: str, inputs: Mapping[str, bytes | NDArray[np.float32]], output: str, seconds: float
    ) -> None:
        """One inference; of the answer only its being there matters. `inputs`: BYTES [1], or FP32 arrays.

        Raises:
            NoAnswer, Refused.
        """
        rows, parts = [], []
        for name, value in inputs.items():
            if isinstance(value, bytes):
                raw, shape, kind = len(value).to_bytes(4, "little") + value, [1], "BYTES"
            else:
                raw, shape, kind = value.tobytes(), list(value.shape), "FP32"
            size = {"binary_data_size": len(raw)}
            rows.append({"name": name, "shape": shape, "datatype": kind, "parameters": size})
            parts.append(raw)
        wanted = [{"name": output, "parameters": {"binary_data": True}}]
        head = json.dumps({"inputs": rows, "outputs": wanted}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        self._ask("POST", f"/v2/models/{model}/infer", b"".join([head, *parts]), length, seconds)

    def _ask(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str], seconds: float
    ) -> bytes:
        host, _, port = self.address.rpartition(":")
        link = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=seconds)
        try:
            link.request(method, path, body, {**self.headers, **headers})
            answer = link.getresponse()
            text = answer.read()
        except TimeoutError:
            raise NoAnswer(f"no answer within {seconds:g} s") from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise NoAnswer(f"no connection ({reason})") from None
        finally:
            link.close()
        if answer.status != 200:
            raise Refused(_error_of(text) or f"HTTP status {answer.status}")
        return text


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text) if text.strip() else None
    except ValueError:
        raise Refused("the answer is no JSON") from None


def _error_of(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return " ".join(text.decode("utf-8", "replace").split())[:200]
