"""The Dockerfile and Compose's files: linted, and in agreement with the package that they install and start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import deployed
import pytest
from dockerfile_parse import DockerfileParser

import florence2_sam2
from florence2_sam2.cli.main import COMMANDS
from florence2_sam2.server.container.options import (
    DEFAULT_REPOSITORY,
    GRPC_PORT,
    HTTP_PORT,
    METRICS_PORT,
    MODEL_CONFIG_VARIABLE,
    MODEL_CONFIGS,
)
from florence2_sam2.server.container.server import READY_SECONDS, STOP_SECONDS
from florence2_sam2.server.onnx_session import PROVIDERS_VARIABLE
from florence2_sam2.server.settings import PREFIX, Settings

DOCKERFILE = deployed.DOCKER / "Dockerfile"
PROJECT = tomllib.loads((deployed.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# Never in the image of the server: of the first two gigabytes, and a second Triton.
NOT_SERVED = ("torch", "transformers", "nvidia-pytriton")
FAMILY = "26.07"  # the release of Triton that all files name


def stages() -> dict[str, list[dict[str, str]]]:
    """The instructions of each stage, by its name."""
    parser = DockerfileParser(fileobj=DOCKERFILE.open("rb"))
    found: dict[str, list[dict[str, str]]] = {}
    rows: list[dict[str, str]] = []
    for row in parser.structure:
        if row["instruction"] == "FROM":
            rows = found[row["value"].rpartition(" ")[2]] = []
        rows.append({"instruction": row["instruction"], "value": row["value"]})
    return found


def of(stage: str, instruction: str) -> list[str]:
    return [row["value"] for row in stages()[stage] if row["instruction"] == instruction]


def requirements(extra: str) -> set[str]:
    """Names of what an extra installs, others of its extras included, without their own dependencies."""
    names: set[str] = set()
    for requirement in PROJECT["project"]["optional-dependencies"][extra]:
        own = re.fullmatch(r"florence2-sam2\[(.+)\]", requirement)
        names |= requirements(own[1]) if own else {re.split(r"[\s<>=!~;\[]", requirement)[0].lower()}
    return names


def test_hadolint_has_nothing_to_say() -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [program, "--no-color", DOCKERFILE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_stages_are_there_in_their_order() -> None:
    assert list(stages()) == ["wheel", "export", "exported", "server", "server-with-models"]
    assert of("server", "FROM") == ["${TRITON_IMAGE} AS server"]
    assert of("server-with-models", "FROM") == ["server AS server-with-models"]


def test_the_extra_of_the_container_brings_neither_torch_nor_a_second_triton() -> None:
    assert requirements("container") == {"onnxruntime-gpu", "opencv-python-headless", "tokenizers"}
    assert {"torch", "transformers"} <= requirements("export")
    assert "nvidia-pytriton" in requirements("server")
    assert not requirements("container") & set(NOT_SERVED)
    (install,) = [row for row in of("server", "RUN") if "pip install" in row]
    extras = re.search(r"\.whl\)\[([\w,]+)\]", install)
    assert extras is not None
    assert extras[1].split(",") == ["container", "store", "tracing"]
    for name in NOT_SERVED:
        assert name not in install


def test_the_constraints_are_of_what_the_extra_takes() -> None:
    rows = (deployed.DOCKER / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = [row.split("#")[0].strip() for row in rows]
    names = {re.split(r"[<=]", row)[0] for row in pinned if row}
    assert requirements("container") | requirements("store") <= names
    assert "numpy<2" in pinned


def test_the_server_runs_as_nobody_in_particular() -> None:
    assert of("server", "USER")[-1] == "1000:1000"
    assert not of("server-with-models", "USER")
    assert of("export", "USER")[-1] == "1000:1000"


def test_the_first_process_is_the_packages() -> None:
    (entry,) = of("server", "ENTRYPOINT")
    assert json.loads(entry)[1:] == ["python3", "-m", "florence2_sam2.server.container"]
    (command,) = of("server", "CMD")
    assert json.loads(command) == []
    assert set(of("server", "EXPOSE")[0].split()) == {
        str(port) for port in (GRPC_PORT, HTTP_PORT, METRICS_PORT)
    }
    assert of("server-with-models", "COPY") == [f"--from=exported /models/repository {DEFAULT_REPOSITORY}"]


def test_the_health_check_asks_the_server() -> None:
    (check,) = of("server", "HEALTHCHECK")
    command = json.loads(check[check.index("CMD") + 3 :])
    assert command[:2] == ["florence2-sam2", "health"]
    assert command[1] in COMMANDS
    assert command[-1] == f"http://127.0.0.1:{HTTP_PORT}"
    minutes = re.search(r"--start-period=(\d+)m", check)
    assert minutes is not None
    assert 60 * int(minutes[1]) >= READY_SECONDS


def test_an_export_is_made_by_the_exporting_command() -> None:
    (entry,) = of("export", "ENTRYPOINT")
    assert json.loads(entry) == ["florence2-sam2", "export"]
    (made,) = of("exported", "RUN")
    done = subprocess.run(
        [sys.executable, "-m", "florence2_sam2", "export", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    flags = re.findall(r"(--[\w-]+)", made.partition("florence2-sam2 export")[2])
    assert {"--florence2", "--sam2", "--output"} <= set(flags)
    for flag in flags:
        assert flag in done.stdout


def test_one_release_of_triton_is_named_everywhere() -> None:
    for path in (DOCKERFILE, deployed.DOCKER / "compose.yaml", deployed.DOCKER / "example.env"):
        tags = re.findall(r"tritonserver:(\d\d\.\d\d)-py3", path.read_text(encoding="utf-8"))
        assert tags, path.name
        assert set(tags) == {FAMILY}, path.name


def test_the_build_gets_the_sources_of_the_wheel_and_not_the_rest() -> None:
    rows = (deployed.DOCKER / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {row[1:] for row in rows if row.startswith("!")}
    tool = PROJECT["tool"]["setuptools"]
    folders = {Path(folder).parts[0] for folder in tool["package-dir"].values()}
    assert folders <= sent
    assert {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]} <= sent
    copied = [value for stage in stages() for value in of(stage, "COPY") if not value.startswith("--from")]
    for source in {value.split()[0] for value in copied} - {"."}:
        assert source in sent
        assert (deployed.ROOT / source).exists()
    assert sent - folders <= {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "constraints.txt",
        "deploy/docker/constraints.txt",
    }


def compose(*names: str) -> dict[str, Any]:
    """The service as the files say it, one over the other."""
    merged: dict[str, Any] = {}
    for name in names:
        (service,) = deployed.document(deployed.DOCKER / name)["services"].values()
        environment = {**merged.get("environment", {}), **service.get("environment", {})}
        merged = {**merged, **service, "environment": environment}
    return merged


def test_composes_server_is_the_images() -> None:
    service = compose("compose.yaml")
    assert service["build"]["target"] in stages()
    assert (
        deployed.DOCKER / service["build"]["context"] / service["build"]["dockerfile"]
    ).resolve() == DOCKERFILE
    assert f":-florence2-sam2:{florence2_sam2.__version__}}}" in service["image"]
    assert float(service["stop_grace_period"].removesuffix("s")) >= STOP_SECONDS
    inside = {int(row.rpartition(":")[2]) for row in service["ports"]}
    assert inside == {GRPC_PORT, HTTP_PORT, METRICS_PORT}
    assert all(row.startswith("127.0.0.1:") for row in service["ports"])
    (models,) = service["volumes"]
    assert models["target"] == DEFAULT_REPOSITORY
    assert models["read_only"] is True
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


@pytest.mark.parametrize(
    "files", [("compose.yaml",), ("compose.yaml", "compose.cpu.yaml")], ids=["GPU", "CPU"]
)
def test_composes_variables_are_read(files: tuple[str, ...]) -> None:
    service = compose(*files)
    on_gpu = len(files) == 1
    assert (service["deploy"] is not None) == on_gpu
    known = {option.variable for option in deployed.server_settings()} | {
        PROVIDERS_VARIABLE,
        MODEL_CONFIG_VARIABLE,
    }
    assert {name for name in service["environment"] if name.startswith(PREFIX)} <= known
    assert service["environment"].get(MODEL_CONFIG_VARIABLE, MODEL_CONFIGS[0]) == (
        "onnxruntime" if on_gpu else "embedded"
    )
    assert service["environment"][PROVIDERS_VARIABLE].startswith("CUDA" if on_gpu else "CPU")


def test_the_examples_of_settings_are_settings() -> None:
    rows = (deployed.DOCKER / "settings.env.example").read_text(encoding="utf-8").splitlines()
    given = dict(row.split("=", 1) for row in rows if row and not row.startswith("#"))
    known = {option.variable for option in deployed.server_settings()}
    assert set(given) <= known
    Settings.from_environment(given)
    used = set(re.findall(r"\$\{(\w+)", (deployed.DOCKER / "compose.yaml").read_text(encoding="utf-8")))
    rows = (deployed.DOCKER / "example.env").read_text(encoding="utf-8").splitlines()
    assert {row.split("=")[0] for row in rows if row and not row.startswith("#")} == used
