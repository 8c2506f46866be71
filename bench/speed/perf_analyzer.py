"""NVIDIA's load tool, where its program starts: found or installed, fed, run, and its CSV read.

The PyPI package of its own name needs a newer C library than Debian 12's. The wheel of tritonclient 2.51.0 carries the
newest program that runs there; it is installed into a folder of its own, never into the environment, and gets two of
its libraries from pytriton's wheel.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from florence2_sam2.server.launch.command import GRPC_HEADER_PREFIX
from florence2_sam2.server.launch.wheel import find_wheel

CARRIER = "tritonclient==2.51.0"
# Names that the program looks for, and how the wheel's build has renamed them.
LIBRARIES = {"libb64.so.0d": "libb64-*", "libcudart.so.12": "libcudart-*"}
COMPOSING = ("florence2_vision_encoder", "florence2", "sam2_image_encoder", "sam2_mask_decoder")


UNSTABLE = "Failed to obtain stable measurement"
ANY_PERCENT = 999.0

_COMPOSING = re.compile(r"^ *(\w+), version: \d+$", re.MULTILINE)
_CALLS = re.compile(r"Successful request count: (\d+)")
_TIMES = re.compile(r"(queue|compute input|compute infer|compute output|compute) (\d+) usec")


class Served(Protocol):
    """A running server: its gRPC address, and the HTTP headers that open its administrative endpoints."""

    @property
    def grpc_address(self) -> str: ...

    @property
    def admin_headers(self) -> Mapping[str, str]: ...


class Unavailable(Exception):
    """There is no program that starts; the message says why."""


@dataclass(frozen=True)
class Tool:
    """A program that has been seen to start, and the environment it needs."""

    program: Path
    environment: dict[str, str]


def find(folder: Path, named: Path | None = None) -> Tool:
    """The program that was named, that of PATH, or one that is installed in `folder`, which is done if need be.

    Raises:
        Unavailable: none of them starts.
    """
    reasons = []
    on_path = shutil.which("perf_analyzer")
    installed = folder / "bin" / "perf_analyzer"
    for program in [named] if named else [Path(on_path) if on_path else None, installed]:
        if program is None:
            continue
        if program == installed and not program.exists():
            problem = _install(folder)
            if problem:
                reasons.append(problem)
                continue
        tool = Tool(program.resolve(), _environment(folder))
        problem = _does_not_start(tool)
        if not problem:
            return tool
        reasons.append(f"{program}: {problem}")
    raise Unavailable("; ".join(reasons))


def write_inputs(path: Path, requests: Sequence[dict[str, bytes | np.ndarray]]) -> None:
    """`--input-data`: inputs of shape [1] by name for each request, BYTES as bytes and others as arrays."""

    def element(value: bytes | np.ndarray) -> dict[str, object]:
        # An element of BYTES begins with its length.
        raw = struct.pack("<I", len(value)) + value if isinstance(value, bytes) else value.tobytes()
        return {"content": {"b64": base64.b64encode(raw).decode()}, "shape": [1]}

    data = [{name: element(value) for name, value in request.items()} for request in requests]
    path.write_text(json.dumps({"data": data}), encoding="utf-8")


@dataclass(frozen=True)
class Composing:
    """A model that `segment` asked: calls, and milliseconds in its queue and in its computing, on average."""

    model: str
    calls: int
    queue_ms: float
    compute_ms: float


@dataclass(frozen=True)
class Measured:
    """One number of callers, or one rate of requests. `columns` are the CSV's, by its own names; latencies are
    microseconds. `stable`: three windows agreed as was asked; otherwise these are of three windows that did not."""

    columns: dict[str, float]
    composing: list[Composing]
    stable: bool


def measure(
    tool: Tool, server: Served, inputs: Path, callers: int, requests: int, stable_percent: float
) -> Measured:
    """What it says for a number of callers.

    Args:
        requests: least number in each of the three windows that must agree.
        stable_percent: how far these may differ.

    Raises:
        RuntimeError: it ends with an error, which one failed call is enough for.
    """
    load = ["--concurrency-range", f"{callers}:{callers}"]
    return _measure(tool, server, inputs, load, f"{callers} callers", requests, (stable_percent, ANY_PERCENT))


def measure_rate(tool: Tool, server: Served, inputs: Path, rate: float, requests: int) -> Measured:
    """What it says for requests that come at random, `rate` a second, whether the ones before are answered or not.

    Args:
        requests: least number in each of three windows. Those of random arrivals differ: they need not agree.

    Raises:
        RuntimeError: it ends with an error, which one failed call, a refused one too, is enough for.
    """
    load = ["--request-rate-range", f"{rate:.3f}", "--request-distribution", "poisson", "--async"]
    return _measure(tool, server, inputs, load, f"{rate:.2f} requests a second", requests, (ANY_PERCENT,))


def _measure(
    tool: Tool,
    server: Served,
    inputs: Path,
    load: Sequence[str],
    told: str,
    requests: int,
    percents: Sequence[float],
) -> Measured:
    """With the first of `percents` with which it comes to an end."""
    report = inputs.with_suffix(".csv")
    opened = [f"{GRPC_HEADER_PREFIX}{name}:{key}" for name, key in server.admin_headers.items()]
    said, code = "", 0
    for percent in percents:
        report.unlink(missing_ok=True)
        command = [
            *(str(tool.program), "-m", "segment", "-u", server.grpc_address, "-i", "grpc"),
            *("--input-data", str(inputs), *load),
            *("--measurement-mode", "count_windows", "--measurement-request-count", str(requests)),
            *("--stability-percentage", f"{percent:g}", "--percentile", "95", "--max-trials", "4"),
            # Without the version the program does not find them.
            *("--bls-composing-models", ",".join(f"{model}:1" for model in COMPOSING)),
            *(word for header in opened for word in ("-H", header)),
            *("-f", str(report)),
        ]
        done = subprocess.run(command, env=tool.environment, capture_output=True, text=True, check=False)
        said, code = done.stdout + done.stderr, done.returncode
        if done.returncode == 0 and report.exists():
            (columns,) = read_csv(report.read_text(encoding="utf-8"))
            return Measured(columns, read_composing(done.stdout), percent == percents[0])
        if UNSTABLE not in said:
            break
    last = " ".join(said.strip().splitlines()[-3:])
    raise RuntimeError(f"perf_analyzer with {told} ended with {code}: {last}")


def read_csv(text: str) -> list[dict[str, float]]:
    """A row for each number of callers, or each rate."""
    return [
        {name: float(value) for name, value in row.items() if value}
        for row in csv.DictReader(text.strip().splitlines())
    ]


def read_composing(text: str) -> list[Composing]:
    """What it prints of each composing model; its CSV has nothing of them. Those that were not asked are left out."""
    found = []
    for part in text.partition("Composing models:")[2].split("\n\n"):
        name, calls = _COMPOSING.search(part), _CALLS.search(part)
        if name and calls and int(calls[1]):
            times = {key: int(value) / 1e3 for key, value in _TIMES.findall(part)}
            compute = sum(value for key, value in times.items() if key.startswith("compute"))
            found.append(Composing(name[1], int(calls[1]), times["queue"], compute))
    return found


def _install(folder: Path) -> str:
    """Why it could not be installed; empty when it was."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*pip, "--target", str(folder), CARRIER], capture_output=True, text=True, check=False
    )
    if done.returncode:
        return f"{CARRIER} could not be installed: {done.stderr.strip().splitlines()[-1:]}"
    (folder / "bin" / "perf_analyzer").chmod(0o755)
    return ""


def _environment(folder: Path) -> dict[str, str]:
    links = folder / "libraries"
    links.mkdir(parents=True, exist_ok=True)
    wheel = find_wheel()
    for name, pattern in LIBRARIES.items():
        for library in sorted(wheel.libraries.glob(pattern)):
            if not (links / name).is_symlink():
                (links / name).symlink_to(library)
    paths = [str(links.resolve()), str(wheel.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(filter(None, paths))}


def _does_not_start(tool: Tool) -> str:
    """Why the program does not start; empty when it does. PyPI has placeholders of its name."""
    try:
        done = subprocess.run(
            [str(tool.program), "--version"],
            env=tool.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode or "Version" not in done.stdout + done.stderr:
        return (done.stdout + done.stderr).strip()[-300:] or f"exit code {done.returncode}"
    return ""
