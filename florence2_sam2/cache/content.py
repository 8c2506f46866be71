"""The hash of a local checkpoint's files, and of none of them twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

# What `export` reads of a folder.
SUFFIXES = (".json", ".txt", ".safetensors", ".bin", ".pt")


def content_hash(checkpoint: Path, notes: Path) -> str:
    """SHA-256 over names and contents of the checkpoint's files.

    A gigabyte takes a second or more to read, so the hash is noted in the folder `notes` with each file's size,
    time of change and inode, and taken from there as long as these are the same.
    """
    checkpoint = checkpoint.resolve()
    files = [checkpoint]
    if checkpoint.is_dir():
        files = sorted(path for path in checkpoint.iterdir() if path.suffix in SUFFIXES and path.is_file())
    seen = [[path.name, *_signature(path)] for path in files]
    note = notes / f"{hashlib.sha256(bytes(checkpoint)).hexdigest()[:32]}.json"
    known = _read(note)
    if known.get("files") == seen and isinstance(known.get("sha256"), str):
        return str(known["sha256"])
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    body = {"checkpoint": str(checkpoint), "files": seen, "sha256": digest.hexdigest()}
    with contextlib.suppress(OSError):  # without the note it is read again next time
        notes.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(body) + "\n", "utf-8")
    return digest.hexdigest()


def _signature(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def _read(note: Path) -> dict[str, Any]:
    try:
        body = json.loads(note.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return body if isinstance(body, dict) else {}
