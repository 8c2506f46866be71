"""From Triton's log the operator gets the one line that says why."""

from __future__ import annotations

from pathlib import Path

import pytest

from florence2_sam2.server.launch.log import LogReader, error_of, failure_reason, loading_failure

# Lines as Triton 2.51.0 writes them.
INFO = '2026-11-22T12:10:06Z I 22871 model_lifecycle.cc:472] "loading: sam2_mask_decoder:1"'
NOISE = '2026-11-22T12:10:06Z E 22871 server.cc:241] "CudaDriverHelper has not been initialized."'
BUG = (
    '2026-11-22T12:10:06Z E 22871 failures.py:56] "internal error in segment, reference 9d4feecb6936\\nTraceback'
    ' (most recent call last):\\n  File \\"x.py\\", line 1\\nKeyError: \'x\'\\n"'
)
FAILED = (
    "2026-11-22T12:10:06Z E 22871 model_lifecycle.cc:642] \"failed to load 'florence2' version 1: Internal:"
    ' ManifestError: manifest.json is missing\\n\\nAt:\\n  /a/manifest.py(119): read\\n"'
)
PORT = '2026-11-22T12:10:06Z E 22871 main.cc:371] "failed to start GRPC service: Unavailable - Socket in use"'


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (INFO, None),
        (NOISE, None),
        ("plain output of a model", None),
        ("", None),
        (BUG, "internal error in segment, reference 9d4feecb6936: KeyError: 'x'"),
        (PORT, "failed to start GRPC service: Unavailable - Socket in use"),
    ],
    ids=["info", "noise", "output", "empty", "bug", "port"],
)
def test_an_error_is_one_line_of_text(line: str, expected: str | None) -> None:
    assert error_of(line) == expected


def test_the_model_that_cannot_be_loaded_is_named_with_its_reason() -> None:
    log = "\n".join([INFO, NOISE, FAILED, PORT])
    assert loading_failure(log) == "model florence2: ManifestError: manifest.json is missing"
    assert failure_reason(log) == loading_failure(log)


def test_without_such_a_model_it_is_the_last_error() -> None:
    assert failure_reason("\n".join([INFO, NOISE, PORT, INFO])) == (
        "failed to start GRPC service: Unavailable - Socket in use"
    )
    assert failure_reason("\n".join([INFO, NOISE])) is None
    assert failure_reason("error: creating server: Internal - failed to load all models") == (
        "error: creating server: Internal - failed to load all models"
    )


def test_a_growing_log_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes("one\ntwö\nthr".encode())
    reader = LogReader(path)
    assert list(reader.lines()) == ["one", "twö"]
    with path.open("ab") as file:
        file.write(b"ee\n\xff\n")
    assert list(reader.lines()) == ["three", "\ufffd"]
    assert list(reader.lines()) == []
