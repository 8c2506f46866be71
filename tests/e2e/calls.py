"""What the end-to-end tests share: plain calls, pictures, and looking at processes."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
from numpy.typing import NDArray
from PIL import Image

TYPES = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8", "bool": "BOOL", "object": "BYTES"}


def infer(
    address: str,
    model: str,
    inputs: Mapping[str, NDArray[Any] | bytes],
    outputs: Sequence[str] | None = None,
    timeout: float = 60,
) -> dict[str, NDArray[Any]]:
    """One request; raises tritonclient's InferenceServerException."""
    client = grpc.InferenceServerClient(address)
    try:
        tensors = []
        for name, value in inputs.items():
            array = np.array([value], np.object_) if isinstance(value, bytes) else value
            tensor = grpc.InferInput(name, list(array.shape), TYPES[str(array.dtype)])
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        wanted = [grpc.InferRequestedOutput(name) for name in outputs] if outputs else None
        answer = client.infer(model, tensors, outputs=wanted, client_timeout=timeout)
        return {row.name: answer.as_numpy(row.name) for row in answer.get_response().outputs}
    finally:
        client.close()


def picture(width: int = 64, height: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: smooth colours with a bright rectangle in the middle."""
    rng = np.random.default_rng(seed)
    pixels = np.asarray(
        Image.fromarray(rng.integers(0, 120, (4, 4, 3), dtype=np.uint8)).resize(
            (width, height), Image.BICUBIC
        )
    ).copy()
    pixels[height // 4 : height * 3 // 4, width // 4 : width * 3 // 4] = rng.integers(150, 255, 3)
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether `condition` became true in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def logged(path: Path) -> list[dict[str, Any]]:
    """The lines of an access log. One that is being written may be seen in part, and is left out."""
    return [json.loads(line) for line in path.read_text("utf-8").rpartition("\n")[0].splitlines()]


def shared_memory(launcher: int) -> set[str]:
    """Names of the shared-memory regions of the servers that the process `launcher` has started."""
    return {path.name for path in Path("/dev/shm").glob(f"florence2_sam2_{launcher}_*")}


def descendants(pid: int) -> dict[int, str]:
    """Every living process below `pid`, with its command line."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(folder.name)] = int(fields[1])
    found: dict[int, str] = {}
    frontier = {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= {child: command_line(child) for child in frontier}
    return found


def command_line(pid: int) -> str:
    try:
        return (Path("/proc") / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def alive(pid: int) -> bool:
    try:
        stat = (Path("/proc") / str(pid) / "stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def listening(pid: int) -> set[tuple[str, int]]:
    """The (address, port) pairs, hexadecimal address as in /proc/net/tcp, on which `pid` listens."""
    inodes = set()
    for link in (Path("/proc") / str(pid) / "fd").iterdir():
        try:
            inodes.add(os.readlink(link).removeprefix("socket:[").removesuffix("]"))
        except OSError:
            continue
    found = set()
    for table in ("tcp", "tcp6"):
        for row in (Path("/proc") / str(pid) / "net" / table).read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address, port = fields[1].split(":")
                found.add((address, int(port, 16)))
    return found
