"""The launcher's own connections to the server that it has started."""

from __future__ import annotations

import tritonclient.grpc as grpc

# gRPC would ask the environment's proxy for the way even to this machine, and never arrive.
CHANNEL_OPTIONS = [("grpc.enable_http_proxy", 0)]


def connect(address: str) -> grpc.InferenceServerClient:
    """A client for the server at `address` (host:port) on this machine."""
    return grpc.InferenceServerClient(address, channel_args=CHANNEL_OPTIONS)
