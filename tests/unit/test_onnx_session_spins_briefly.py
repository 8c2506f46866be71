"""Idle threads of a session look for work for a moment, and never for onnxruntime's own second."""

import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from florence2_sam2.server import onnx_session
from florence2_sam2.server.launch.embedded import packaged_repository

ENCODER = packaged_repository() / "florence2_vision_encoder" / "1" / "model.onnx"


def entry(options: onnxruntime.SessionOptions, name: str) -> str | None:
    try:
        found: str = options.get_session_config_entry(f"session.intra_op.{name}")
    except RuntimeError:
        return None
    return found


@pytest.mark.parametrize(
    ("version", "variable", "spins"),
    [
        ("1.31.0", None, str(onnx_session.SPIN_MICROSECONDS)),
        ("1.26.0", "200", "200"),
        ("1.31.0", "0", None),
        ("1.25.1", None, None),
        ("1.25.1", "200", None),
        ("2.0.0", "7", "7"),
    ],
)
def test_spinning_has_an_end_or_is_off(
    version: str, variable: str | None, spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", version)
    monkeypatch.delenv(onnx_session.SPIN_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(onnx_session.SPIN_VARIABLE, variable)
    options = onnx_session._options(2)
    assert entry(options, "allow_spinning") == ("0" if spins is None else "1")
    assert entry(options, "spin_duration_us") == spins


def seconds_of_processor_after_a_run(path: Path) -> float:
    """What the process spends in a fifth of a second after a model's run."""
    session = onnx_session.open_session(path, intra_op_threads=2)
    pixels = np.zeros([1, *session.get_inputs()[0].shape[1:]], np.uint8)
    session.run(None, {"pixels": pixels})
    began = time.process_time()
    time.sleep(0.2)
    return time.process_time() - began


def test_a_session_that_has_nothing_to_do_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(onnx_session.SPIN_VARIABLE, raising=False)
    assert seconds_of_processor_after_a_run(ENCODER) < 0.02
    # The look tells the two apart: so long a spin is seen.
    monkeypatch.setenv(onnx_session.SPIN_VARIABLE, "150000")
    assert seconds_of_processor_after_a_run(ENCODER) > 0.05
