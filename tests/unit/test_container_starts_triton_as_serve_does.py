"""The container's command line: as safe as the embedded Triton's, with what the container needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import triton_program

from florence2_sam2.server.container.command import HTTP_BYTES, command, environment
from florence2_sam2.server.container.options import parse
from florence2_sam2.server.launch.command import ADMIN_HEADER, ADMINISTRATIVE, Addresses, server_command
from florence2_sam2.server.launch.wheel import find_wheel
from florence2_sam2.server.settings import Settings

KEY = "0123456789abcdef0123"
# What only one of the two has, and why.
OF_THE_WHEEL = {"--backend-directory", "--cache-directory"}  # the container's are where Triton looks


def flags(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words[1:]:
        name, _, value = word.partition("=")
        found.setdefault(name, []).append(value)
    return found


def of_container(
    *arguments: str, gpu: bool = False, settings: Settings | None = None
) -> dict[str, list[str]]:
    return flags(command(parse(arguments, {}), settings or Settings(), "prefix_", KEY, gpu))


def test_it_has_the_flags_of_the_embedded_triton() -> None:
    ours = of_container("--repository=/models", "--model-config=embedded")
    addresses = Addresses("0.0.0.0", "0.0.0.0", "0.0.0.0", 8001, 8000, 8002)
    theirs = flags(server_command(find_wheel(), Path("/b"), Path("/models"), addresses, "prefix_", KEY))
    assert {name: theirs[name] for name in theirs if name not in OF_THE_WHEEL} == ours
    assert set(theirs) >= OF_THE_WHEEL


def test_the_administration_is_closed() -> None:
    closed = [f"{','.join(ADMINISTRATIVE)}:{ADMIN_HEADER}={KEY}"]
    found = of_container()
    assert found["--grpc-restricted-protocol"] == found["--http-restricted-api"] == closed


def test_the_form_of_the_leaf_models_is_chosen_by_a_flag() -> None:
    assert "--model-config-name" not in of_container("--model-config=onnxruntime")
    assert of_container("--model-config=tensorrt")["--model-config-name"] == ["tensorrt"]


def test_a_gpu_has_its_metrics_and_its_pinned_memory() -> None:
    assert of_container(gpu=True)["--allow-gpu-metrics"] == ["true"]
    assert "--pinned-memory-pool-byte-size" not in of_container(gpu=True)
    assert of_container()["--pinned-memory-pool-byte-size"] == ["0"]


def test_connections_end_where_that_is_wanted() -> None:
    assert of_container("--grpc-connection-seconds=300")["--grpc-max-connection-age"] == ["300000"]
    assert "--grpc-max-connection-age" not in of_container()


def test_bodies_may_be_as_large_as_the_largest_picture_in_base64() -> None:
    assert "--http-max-input-size" not in of_container()
    (size,) = of_container(settings=Settings(max_image_bytes=HTTP_BYTES))["--http-max-input-size"]
    assert int(size) > HTTP_BYTES * 4 / 3


def test_what_is_tritons_comes_last() -> None:
    words = command(parse(["--", "--log-verbose=1"], {}), Settings(), "p", KEY, False)
    assert words[-1] == "--log-verbose=1"


def test_the_models_processes_get_the_settings_and_this_python() -> None:
    found = environment(
        Settings(max_queue=5), Path("/opt/bin"), {"PATH": "/usr/bin", "FLORENCE2_SAM2_MAX_QUEUE": "9"}
    )
    assert found["FLORENCE2_SAM2_MAX_QUEUE"] == "5"
    assert found["PATH"] == f"/opt/bin{os.pathsep}/usr/bin"
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"


def run(
    folder: Path, *arguments: str, **environ: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """The container's first process with a `tritonserver` that writes down how it was called, and ends with 7."""
    programs = triton_program.recording(folder, sys.executable)
    done = subprocess.run(
        [sys.executable, "-m", "florence2_sam2.server.container", *arguments],
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    record = folder / "record.json"
    return done, json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}


def test_the_program_on_path_is_started_and_its_end_is_an_error(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(KEY, encoding="utf-8")
    done, record = run(
        tmp_path,
        "--repository=demo",
        "--model-config=embedded",
        "--",
        "--log-verbose=0",
        FLORENCE2_SAM2_MAX_QUEUE="7",
        FLORENCE2_SAM2_ADMIN_KEY_FILE=str(key),
    )
    assert done.returncode == 1
    assert done.stderr == "florence2-sam2: error: Triton has ended with exit code 7, see its log above\n"
    given = flags(["tritonserver", *record["arguments"]])
    assert given["--model-control-mode"] == ["explicit"]
    assert given["--grpc-restricted-protocol"][0].endswith(f"={KEY}")
    assert record["arguments"][-1] == "--log-verbose=0"
    assert record["environment"]["FLORENCE2_SAM2_MAX_QUEUE"] == "7"
    assert "FLORENCE2_SAM2_ADMIN_KEY_FILE" not in record["environment"]  # the models have no use for it
    (prefix,) = [
        row.split("=")[1] for row in given["--backend-config"] if row.startswith("python,shm-region-prefix")
    ]
    assert not list(Path("/dev/shm").glob(f"{prefix}*"))


def test_without_plans_tensorrt_is_refused_before_the_program_starts(tmp_path: Path) -> None:
    done, record = run(tmp_path, "--repository=demo", "--model-config=tensorrt")
    assert (done.returncode, record) == (1, {})
    assert done.stderr.startswith("florence2-sam2: error: --model-config tensorrt serves plans, and ")
    assert done.stderr.count("\n") == 1


def test_each_start_has_another_key(tmp_path: Path) -> None:
    keys = set()
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        _, record = run(tmp_path / name, "--repository=demo")
        keys.add(flags(["", *record["arguments"]])["--http-restricted-api"][0])
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        (["--repository=/none"], {}, "there is no model repository /none"),
        (
            ["--repository=demo"],
            {"FLORENCE2_SAM2_MAX_QUEUE": "many"},
            "FLORENCE2_SAM2_MAX_QUEUE: 'many' is no whole number",
        ),
        (
            ["--repository=demo"],
            {"FLORENCE2_SAM2_PROVIDERS": "CUDAExecutionProvider"},
            "onnxruntime has no CUDA",
        ),
        (
            ["--repository=demo", "--admin-key-file=/none"],
            {},
            "FLORENCE2_SAM2_ADMIN_KEY_FILE names a file that",
        ),
    ],
    ids=["no models", "a wrong setting", "no GPU", "no key"],
)
def test_what_is_wrong_is_one_line_before_triton_starts(
    tmp_path: Path, arguments: list[str], environ: dict[str, str], said: str
) -> None:
    done, record = run(tmp_path, *arguments, **environ)
    assert done.returncode == 1
    assert done.stderr.startswith(f"florence2-sam2: error: {said}")
    assert done.stderr.count("\n") == 1
    assert not record


def test_without_the_program_it_says_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "florence2_sam2.server.container", "--repository=demo"],
        env={**os.environ, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (
        done.stderr == "florence2-sam2: error: tritonserver cannot be started (No such file or directory)\n"
    )
