"""What the container's first process may be told, by flags or by the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.server.launch.command import Addresses
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.settings import PREFIX

REPOSITORY_VARIABLE = PREFIX + "REPOSITORY"
MODEL_CONFIG_VARIABLE = PREFIX + "MODEL_CONFIG"
ADMIN_KEY_FILE_VARIABLE = PREFIX + "ADMIN_KEY_FILE"

DEFAULT_REPOSITORY = "/models"
DEMO = "demo"
MODEL_CONFIGS = ("onnxruntime", "onnxruntime_tensorrt", "tensorrt", "embedded")
DEFAULT_HOST = "0.0.0.0"  # a container has its own network
GRPC_PORT, HTTP_PORT, METRICS_PORT = 8001, 8000, 8002
# Shorter ones are guessed, and a key on a command line must not need quoting.
KEY_LENGTH, KEY_LETTERS = 16, "a letter, a digit, - or _"


@dataclass(frozen=True)
class Options:
    """See `parse`. `extra` are flags of tritonserver."""

    repository: Path
    model_config: str
    addresses: Addresses
    connection_seconds: int
    admin_key_file: Path | None
    check_hashes: bool
    extra: tuple[str, ...]

    def admin_key(self) -> str | None:
        """The key in `admin_key_file`; None without one.

        Raises:
            StartError: the file cannot be read, or what it holds is no key.
        """
        if self.admin_key_file is None:
            return None
        try:
            key = self.admin_key_file.read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            raise StartError(f"{ADMIN_KEY_FILE_VARIABLE} names a file that cannot be read as text") from None
        if len(key) < KEY_LENGTH or not all(
            letter.isascii() and (letter.isalnum() or letter in "-_") for letter in key
        ):
            raise StartError(
                f"{ADMIN_KEY_FILE_VARIABLE} names a file without a key: at least {KEY_LENGTH} characters are needed,"
                f" each {KEY_LETTERS}"
            )
        return key


def parse(arguments: Sequence[str], environ: Mapping[str, str] = os.environ) -> Options:
    """Flags win over the environment. Wrong flags end the process, as argparse does it.

    Raises:
        StartError: a variable has a wrong value.
    """
    given, extra = _split(arguments)
    found = _parser(environ).parse_args(given)
    if found.model_config not in MODEL_CONFIGS:  # argparse checks flags, not defaults
        raise StartError(
            f"{MODEL_CONFIG_VARIABLE} is {found.model_config!r}, none of {', '.join(MODEL_CONFIGS)}"
        )
    return Options(
        repository=packaged_repository() if found.repository == DEMO else Path(found.repository),
        model_config=found.model_config,
        addresses=Addresses(
            found.host, found.host, found.host, found.grpc_port, found.http_port, found.metrics_port
        ),
        connection_seconds=found.grpc_connection_seconds,
        admin_key_file=found.admin_key_file,
        check_hashes=not found.skip_hashes,
        extra=extra,
    )


def _split(arguments: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """What stands before `--`, and after it."""
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    return words[:end], tuple(words[end + 1 :])


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 -m florence2_sam2.server.container",
        description="Triton on a model repository, watched, until it fails or is told to stop.",
        epilog="What stands after -- goes to tritonserver as it is. Limits are environment variables,"
        f" {PREFIX}MAX_QUEUE for instance.",
    )
    parser.add_argument(
        "--repository",
        default=environ.get(REPOSITORY_VARIABLE) or DEFAULT_REPOSITORY,
        metavar="DIR",
        help=f"model repository that `export` wrote, or {DEMO!r}, the packaged small models"
        f" (${REPOSITORY_VARIABLE}, else {DEFAULT_REPOSITORY})",
    )
    parser.add_argument(
        "--model-config",
        choices=MODEL_CONFIGS,
        default=environ.get(MODEL_CONFIG_VARIABLE) or MODEL_CONFIGS[0],
        help="what runs the encoders and the mask decoder: Triton's onnxruntime backend, the same with TensorRT, plans"
        " of TensorRT (tensorrt), or onnxruntime in Python's processes (embedded; for CPUs)"
        f" (${MODEL_CONFIG_VARIABLE}, else {MODEL_CONFIGS[0]})",
    )
    parser.add_argument("--host", default=DEFAULT_HOST, help=f"address to listen on ({DEFAULT_HOST})")
    for name, port in (("grpc", GRPC_PORT), ("http", HTTP_PORT), ("metrics", METRICS_PORT)):
        parser.add_argument(f"--{name}-port", type=_port, default=port, metavar="N", help=f"({port})")
    parser.add_argument(
        "--grpc-connection-seconds",
        type=_seconds,
        default=0,
        metavar="N",
        help="end each gRPC connection after so long, without harm to its calls, so that clients look for new servers"
        " (0: never)",
    )
    parser.add_argument(
        "--admin-key-file",
        type=Path,
        default=environ.get(ADMIN_KEY_FILE_VARIABLE) or None,
        metavar="F",
        help=f"holds the key of the administration (${ADMIN_KEY_FILE_VARIABLE}; none: a random key, told to nobody)",
    )
    parser.add_argument(
        "--skip-hashes", action="store_true", help="do not compare the model files with the manifests"
    )
    return parser


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r} is no port")
    return int(text)


def _seconds(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of seconds")
    return int(text)
