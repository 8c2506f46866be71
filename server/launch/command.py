"""Triton's command line and environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.server import request_id, tracing
from florence2_sam2.server.launch.tls import Tls
from florence2_sam2.server.launch.wheel import TritonWheel
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.triton.outstanding import CALL_THREADS

# Triton 24.10 predates the 2025 fixes around shared memory, and none of these is needed to use the service.
ADMINISTRATIVE = ("shared-memory", "model-config", "model-repository", "trace", "logging")
# The header that opens them: its name over HTTP; over gRPC Triton puts a prefix before it.
ADMIN_HEADER = "florence2-sam2-admin-key"
GRPC_HEADER_PREFIX = "triton-grpc-protocol-"

# Headers of a call that its model needs: Triton hands them on as request parameters. (RE2, found anywhere in a name.)
FORWARDED_HEADERS = f"(?i)^({tracing.TRACEPARENT}|{tracing.TRACESTATE}|{request_id.HEADER})$"

EXIT_TIMEOUT_SECONDS = 30
# Each python model has one region in /dev/shm, taken in full at the start. It grows with its tensors and
# never shrinks.
SHM_DEFAULT_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Addresses:
    """Where the server listens: for each endpoint an address of this machine, in numbers, and a port."""

    grpc_host: str
    http_host: str
    metrics_host: str
    grpc_port: int
    http_port: int
    metrics_port: int

    @property
    def grpc(self) -> str:
        """For a client on this machine, as the others."""
        return f"{_reached(self.grpc_host)}:{self.grpc_port}"

    @property
    def http(self) -> str:
        return f"{_reached(self.http_host)}:{self.http_port}"

    @property
    def metrics(self) -> str:
        return f"{_reached(self.metrics_host)}:{self.metrics_port}"


def _reached(host: str) -> str:
    return _bracketed({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _for_http(host: str) -> str:
    """As libevhtp reads it."""
    return f"ipv6:{host}" if ":" in host else host


def server_command(
    wheel: TritonWheel,
    backends: Path,
    repository: Path,
    addresses: Addresses,
    shm_prefix: str,
    admin_key: str,
    models: Sequence[str] | None = None,
    gpu_metrics: bool = False,
    tls: Tls | None = None,
) -> list[str]:
    """The whole command line.

    Args:
        backends: see `wheel.assemble_backends`.
        admin_key: value of ADMIN_HEADER that opens the administrative protocols.
        models: those to load; None loads the whole repository.
        tls: of gRPC.
    """
    command = [
        str(wheel.binary),
        f"--model-repository={repository}",
        "--model-config-name=embedded",  # where a model has no configs/embedded.pbtxt, its config.pbtxt
        "--disable-auto-complete-config",
        f"--backend-directory={backends}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        f"--backend-config=python,shm-default-byte-size={SHM_DEFAULT_BYTES}",
        f"--backend-config=python,thread-pool-size={CALL_THREADS}",
        f"--cache-directory={wheel.caches}",
        f"--grpc-address={_bracketed(addresses.grpc_host)}",
        f"--grpc-port={addresses.grpc_port}",
        f"--http-address={_for_http(addresses.http_host)}",
        f"--http-port={addresses.http_port}",
        f"--metrics-address={_for_http(addresses.metrics_host)}",
        f"--metrics-port={addresses.metrics_port}",
        f"--allow-gpu-metrics={str(gpu_metrics).lower()}",
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
        "--pinned-memory-pool-byte-size=0",  # the python backend has no use for it
        f"--grpc-restricted-protocol={','.join(ADMINISTRATIVE)}:{ADMIN_HEADER}={admin_key}",
        f"--http-restricted-api={','.join(ADMINISTRATIVE)}:{ADMIN_HEADER}={admin_key}",
        *forwarded_headers(),
        *(tls.arguments() if tls else []),
        f"--exit-timeout-secs={EXIT_TIMEOUT_SECONDS}",
        "--log-format=ISO8601",
    ]
    # Explicit control lets the launcher unload models in an order that finishes what is in flight, see
    # drain.py.
    loaded = ["*"] if models is None else models
    return [*command, "--model-control-mode=explicit", *(f"--load-model={model}" for model in loaded)]


# glibc's allocator. It gives threads up to eight arenas a core, and each keeps what its largest moment took: a third
# more memory in `segment`, which grew for minutes. With two it levels off within one.
# What a call frees it hands back to the system, and the next call gets it page by page again: so SAM2's features took
# 3 ms from their encoder to `segment` in place of 1.7. These limits keep what a call needs again, not what a large
# picture takes once; with four times as much, ten processes kept 200 MB.
# It asks for huge pages where Linux gives them to who asks (`madvise`, the default): with weights and inner values on
# pages of 4 KB a virtual machine's full-size encoders took a tenth to a seventh longer, each process differently, by
# what memory it happened to get. Takes 40 to 100 MB more.
ALLOCATOR = {
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(8 * 2**20),
}


def forwarded_headers() -> list[str]:
    """Flags: which headers of a call the models get to see."""
    return [f"--{protocol}-header-forward-pattern={FORWARDED_HEADERS}" for protocol in ("http", "grpc")]


def server_environment(
    wheel: TritonWheel, python3: Path, libpython: Path | None, settings: Settings, environ: Mapping[str, str]
) -> dict[str, str]:
    """The environment of Triton and its stubs.

    Args:
        python3: folder of the environment's `python3`; the stubs run in the environment of the first one on
            PATH. libpython: folder of the shared libpython when the system does not find it by itself.
    """
    libraries = [str(wheel.libraries), str(libpython or ""), environ.get("LD_LIBRARY_PATH", "")]
    return {
        **ALLOCATOR,
        **environ,
        **settings.environment(),
        "PATH": os.pathsep.join([str(python3), environ.get("PATH", os.defpath)]),
        "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
        "PYTHONUTF8": "1",  # the stubs' own default is ASCII
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # a model repository holds models, not caches
        # Nine processes share the cores: the sessions' threads are set in open_session, everything else has
        # one.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OPENCV_FOR_THREADS_NUM": "1",
    }
