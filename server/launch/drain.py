"""Finishing what is in flight before Triton is told to stop.

Triton's own way down refuses every new request to every model at once, and a call from one model to another
or the next step of an ensemble is a new request: what `segment` or `sam2` is working on would fail half-way
(2.51.0). So the models that call others are unloaded first, callers before those they call; Triton lets an
unloading model finish.
"""

from __future__ import annotations

import time

import tritonclient.grpc as grpc

from florence2_sam2.server.launch.connection import connect

# Each may call those after it, and the leaves.
CALLERS = ("segment_stream", "segment_http", "segment", "florence2", "sam2")
POLL_SECONDS = 0.05


def drain(address: str, headers: dict[str, str], seconds: float) -> bool:
    """Unload the models that call others, each when those before it have finished.

    Args:
        address: host:port of gRPC.
        headers: what opens the administrative protocols.
        seconds: for all of them together.

    Returns:
        Whether everything in flight was finished in time, as far as can be known.
    """
    end = time.monotonic() + seconds
    client = connect(address)
    try:
        for model in CALLERS:
            if not _busy(client, headers, model):
                continue
            client.unload_model(model, headers=headers)
            while _busy(client, headers, model):
                if time.monotonic() > end:
                    return False
                time.sleep(POLL_SECONDS)
    except grpc.InferenceServerException:  # the server has gone, or hangs: there is nothing to wait for
        return False
    finally:
        client.close()
    return True


def _busy(client: grpc.InferenceServerClient, headers: dict[str, str], model: str) -> bool:
    """Whether `model` is loaded, or still at work."""
    index = client.get_model_repository_index(headers=headers, client_timeout=5)
    return any(row.name == model and row.state in ("READY", "UNLOADING") for row in index.models)
