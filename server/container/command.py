"""Triton's command line and environment in the container. What both have is as for the embedded Triton, see
`server/launch/command.py`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from florence2_sam2.server.container.options import Options
from florence2_sam2.server.launch.command import (
    ADMIN_HEADER,
    ADMINISTRATIVE,
    ALLOCATOR,
    EXIT_TIMEOUT_SECONDS,
    SHM_DEFAULT_BYTES,
    forwarded_headers,
)
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.triton.outstanding import CALL_THREADS

BINARY = "tritonserver"
# Triton's own limit on a body over HTTP (HTTP_DEFAULT_MAX_INPUT_SIZE in its src/common.h; 24.10 has none).
HTTP_BYTES = 64 * 2**20
# What stands beside the picture in a request, at most.
_BESIDE_BYTES = 2**20


def command(options: Options, settings: Settings, shm_prefix: str, admin_key: str, gpu: bool) -> list[str]:
    """The whole command line.

    Args:
        shm_prefix: what the names of its shared memory begin with.
        admin_key: value of ADMIN_HEADER that opens the administrative protocols.
        gpu: whether the container has one.
    """
    closed = f"{','.join(ADMINISTRATIVE)}:{ADMIN_HEADER}={admin_key}"
    at = options.addresses
    return [
        BINARY,
        f"--model-repository={options.repository}",
        *_model_config(options.model_config),
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,shm-default-byte-size={SHM_DEFAULT_BYTES}",
        f"--backend-config=python,thread-pool-size={CALL_THREADS}",
        f"--grpc-address={at.grpc_host}",
        f"--grpc-port={at.grpc_port}",
        f"--http-address={at.http_host}",
        f"--http-port={at.http_port}",
        f"--metrics-address={at.metrics_host}",
        f"--metrics-port={at.metrics_port}",
        f"--allow-gpu-metrics={str(gpu).lower()}",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        *([] if gpu else ["--pinned-memory-pool-byte-size=0"]),  # between GPU and CPU
        f"--grpc-restricted-protocol={closed}",
        f"--http-restricted-api={closed}",
        *forwarded_headers(),
        *_connection_age(options.connection_seconds),
        *_http_bytes(settings),
        f"--exit-timeout-secs={EXIT_TIMEOUT_SECONDS}",
        "--log-format=ISO8601",
        # Explicit control, so that models can be unloaded in an order that finishes what is in flight, see drain.py.
        "--model-control-mode=explicit",
        "--load-model=*",
        *options.extra,
    ]


def environment(settings: Settings, python3: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of Triton and of its models' processes.

    Args:
        python3: folder of the `python3` that has this package: the models' processes take the first one on PATH.
    """
    return {
        **ALLOCATOR,
        **environ,
        **settings.environment(),
        "PATH": os.pathsep.join([str(python3), environ.get("PATH", os.defpath)]),
        "PYTHONUTF8": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OPENCV_FOR_THREADS_NUM": "1",
    }


def _model_config(name: str) -> list[str]:
    """`config.pbtxt` itself is the form for the onnxruntime backend."""
    return [] if name == "onnxruntime" else [f"--model-config-name={name}"]


def _connection_age(seconds: int) -> list[str]:
    return [f"--grpc-max-connection-age={1000 * seconds}"] if seconds else []


def _http_bytes(settings: Settings) -> list[str]:
    """Room for the largest picture in base64, where that is more than Triton allows by itself."""
    needed = -(-settings.max_image_bytes // 3) * 4 + _BESIDE_BYTES
    return [f"--http-max-input-size={needed}"] if needed > HTTP_BYTES else []
