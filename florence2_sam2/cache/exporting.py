"""The export in a process of its own: torch's memory goes with it, and killing it is always safe."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from florence2_sam2.cache.recipe import Recipe

NEEDED = ("torch", "transformers", "onnx", "onnx_ir", "onnxruntime")
WORKER = ("-m", "florence2_sam2.export.worker")
PR_SET_PDEATHSIG = 1  # linux/prctl.h

Say = Callable[[str], None]


class ExportFailed(Exception):
    """The export has not come to its end. One line, with what to do."""


def missing_packages() -> list[str]:
    """The packages of the `export` extra that are not installed."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def require_packages(recipe: Recipe) -> None:
    """Raises ExportFailed when the `export` extra is not installed."""
    missing = missing_packages()
    if missing:
        raise ExportFailed(
            f"{recipe.florence2} and {recipe.sam2} are not in the cache yet, and to export them {', '.join(missing)} is"
            " needed: pip install 'florence2-sam2[export]'"
        )


def export(recipe: Recipe, output: Path, say: Say) -> None:
    """Export `recipe` to the folder `output`; returns when it is whole and in place.

    The process has no cleaning up to do when it is ended: downloads go on where they were, and what lies beside
    `output` is removed by whoever holds the entry's lock next. An exception in `say`, or raised by a signal, ends it.

    Raises:
        ExportFailed: the export or its download failed.
    """
    plan = {
        "output": str(output),
        "florence2": recipe.florence2.argument,
        "sam2": recipe.sam2.argument,
        "precision": recipe.precision,
        "decoder_weights": recipe.decoder_weights,
    }
    with subprocess.Popen(
        [sys.executable, *WORKER, json.dumps(plan)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        process_group=0,  # Ctrl-C is this process's business
        preexec_fn=_end_with_parent,
    ) as worker:
        failure = None
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                message = json.loads(line)
                failure = message.get("error", failure)
                if "say" in message:
                    say(message["say"])
        except BaseException:
            worker.kill()
            raise
    if failure is None and worker.returncode:
        failure = _died(worker.returncode)
    if failure is not None:
        raise ExportFailed(failure)


def _died(code: int) -> str:
    if code == -signal.SIGKILL:
        return "the export was killed: if that was for want of memory, it needs about 5 bytes for each of the weights'"
    reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"the export ended unexpectedly ({reason}); what it printed last says why"


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
