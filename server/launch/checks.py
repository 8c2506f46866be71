"""What must be right before Triton is started: each miss is one line, found in well under a second.

Without these checks the same misses come up as empty tensors, dead stubs or a loader's message deep in
Triton's log.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import importlib.metadata
import os
import re
import socket
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from florence2_sam2.server import access_log, manifest, tracing
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.settings import Settings

SHM_NEEDED_BYTES = 48 * 2**20
PYTHONS = ((3, 11), (3, 12))
_NOT_FOR_A_SHELL = re.compile(r"[^\w@%+=:,./~-]")
# `segment` needs both halves.
HALVES: dict[str, Callable[[Path], manifest.Exported]] = {
    "florence2": manifest.read_florence2,
    "sam2": manifest.read_sam2,
}


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> None:
    """The wheel's Triton needs numpy 1, whose last wheels are for Python 3.12."""
    if version not in PYTHONS:
        raise StartError(f"the embedded server needs Python 3.11 or 3.12, this is {version[0]}.{version[1]}")


def check_numpy(version: str | None = None) -> None:
    """With numpy 2 the stubs of Triton 24.10 deliver FP32 outputs empty and die on BYTES."""
    version = version or importlib.metadata.version("numpy")
    if int(version.split(".")[0]) >= 2:
        raise StartError(
            f"the embedded Triton passes tensors correctly with numpy 1 only, this is {version}:"
            " pip install 'numpy<2'"
        )


def find_libpython(
    version: tuple[int, int] = sys.version_info[:2], load: Callable[[str], object] = ctypes.CDLL
) -> Path | None:
    """The folder of the shared libpython that Triton's stubs link, None when the system's loader finds it
    itself.

    Raises:
        StartError: there is none.
    """
    name = f"libpython{version[0]}.{version[1]}.so.1.0"
    own = Path(sysconfig.get_config_var("LIBDIR") or "/") / name
    for path, folder in ((str(own), own.parent), (name, None)):
        try:
            load(path)
        except OSError:
            continue
        return folder
    raise StartError(
        f"{name} is missing, which Triton's python models need:"
        f" apt-get install libpython{version[0]}.{version[1]}"
    )


def check_providers() -> list[str]:
    """onnxruntime is installed, and has the execution providers that the sessions will ask for.

    Returns:
        Their names, in order of preference.

    Raises:
        StartError: it is not, or their options are malformed; without this check each model would say so in Triton's
            log.
    """
    try:
        import onnxruntime

        from florence2_sam2.server import onnx_session
    except ModuleNotFoundError as error:
        raise StartError(f"{error.name} is not installed: pip install 'florence2-sam2[server]'") from None
    try:
        onnx_session.provider_options()
    except onnx_session.ProviderError as error:
        raise StartError(str(error)) from None
    wanted = onnx_session.wanted_providers()
    available = onnxruntime.get_available_providers()
    missing = [name for name in wanted if name not in available]
    if missing:
        raise StartError(
            f"onnxruntime has no {', '.join(missing)}, only {', '.join(available)}: set"
            f" {onnx_session.PROVIDERS_VARIABLE}, or install the extra [server-gpu] instead of [server]"
        )
    return wanted


def check_python3(executable: str = sys.executable) -> Path:
    """The folder of this environment's `python3`: Triton's stubs live in the environment of the first one
    on PATH.

    Raises:
        StartError: the environment has none by that name.
    """
    folder = Path(executable).parent
    if not os.access(folder / "python3", os.X_OK):
        raise StartError(
            f"{folder} has no python3, which Triton's python models look for:"
            f" ln -s {executable} {folder}/python3"
        )
    return folder


def check_repository(repository: Path, hashes: bool = True) -> dict[str, manifest.Exported]:
    """Both manifests and every file they name are there.

    Args:
        hashes: also compare contents; a second for each gigabyte.

    Returns:
        The manifests, by model.

    Raises:
        StartError: a half, a manifest or a file is missing, or a file has changed since the export.
    """
    if not repository.is_dir():
        raise StartError(f"there is no model repository {repository}")
    manifests: dict[str, manifest.Exported] = {}
    for model, read in HALVES.items():
        try:
            manifests[model] = read(repository)
        except manifest.ManifestError as error:
            raise StartError(f"the {model} half of the model repository is missing: {error}") from None
    for model, exported in manifests.items():
        for name, digest in exported.files.items():
            path = repository / name
            if not path.resolve().is_relative_to(repository.resolve()):
                raise StartError(f"{model}'s manifest names {name}, outside the repository: export again")
            if not path.is_file():
                raise StartError(f"{path} is missing, {model}'s manifest names it: export again")
            if hashes and _sha256(path) != digest:
                raise StartError(f"{path} has changed since the export (its SHA-256 differs): export again")
    return manifests


def check_places(*places: Path) -> None:
    """Triton's Python backend starts its stubs by a line for a shell, in which it quotes no path: with a space in one
    no model ever becomes ready.

    Raises:
        StartError: a path has what a shell reads as more than text.
    """
    for place in places:
        odd = _NOT_FOR_A_SHELL.search(str(place))
        if odd:
            raise StartError(
                f"{place} has {odd[0]!r} in it, which Triton cannot start Python models with: choose another place"
                " (--repository, TMPDIR)"
            )


def check_shared_memory(needed: int = SHM_NEEDED_BYTES, folder: str = "/dev/shm") -> None:
    """The python models' regions fit. Containers have 64 MB unless told otherwise, enough for the small
    models only.

    Raises:
        StartError: there is too little to start.
    """
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if free < needed:
        raise StartError(
            f"{folder} has {free // 2**20} MB free, at least {needed // 2**20} MB are needed:"
            " docker run --shm-size=1g, or remove what lies there"
        )


def check_telemetry(settings: Settings) -> None:
    """What is told of calls must be possible: the log can be written, traces have their packages."""
    try:
        if settings.access_log is not None:
            access_log.check(settings.access_log)
        if settings.tracing:
            tracing.check()
    except ValueError as error:
        raise StartError(str(error)) from None


def check_features(settings: Settings, embedded: bool, providers: Sequence[str]) -> None:
    """Raises StartError if features are to stay on a GPU and cannot: python models hand theirs over in host memory, and
    Triton fails to allocate the other where it has no GPU."""
    if not settings.features_on_gpu:
        return
    if embedded:
        raise StartError(
            "features_on_gpu: embedded models hand their answers over in host memory; it is for Triton's own backends,"
            " as in NVIDIA's container"
        )
    from florence2_sam2.server import onnx_session

    if providers[0] == onnx_session.CPU:
        raise StartError(
            f"features_on_gpu: Florence-2 decodes on the CPU, see {onnx_session.PROVIDERS_VARIABLE}"
        )


def free_port(host: str) -> int:
    """A TCP port that is free now."""
    with hold_endpoint("grpc", host, 0) as sock:
        return int(sock.getsockname()[1])


def hold_endpoint(name: str, host: str, port: int) -> socket.socket:
    """Take the place where an endpoint is to listen. Until the socket is closed nobody is given it by chance, but
    Triton, which asks for it by number, can listen there, also after a restart.

    Args:
        name: grpc, http or metrics.
        host: an address, or a name: IPv4 then if there is one. (Triton's HTTP server knows no names.)
        port: 0 is any free one.

    Returns:
        A socket at the address and port; it does not listen.

    Raises:
        StartError: the name is not known, the address is none of this machine's, or the port is taken; names the flag.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
        address = str(min(found, key=lambda row: row[0] != socket.AF_INET)[4][0])
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            if port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((address, port))
            sock.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # not before: two might get the same one
        except OSError:
            sock.close()
            raise
        return sock
    except OSError as error:
        flag = f"--{name}-host"
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            flag = f"--{name}-port, 0 is any free one"
        raise StartError(
            f"{host}:{port} cannot be used ({error.strerror or error}): choose another {flag}"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
