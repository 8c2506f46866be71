"""What several folders of tests share."""

from __future__ import annotations

import functools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Before torch is first imported: its threads wait for each other actively, and beside a server on the same cores a
# small model then takes ten times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What is started in a shell's background ignores SIGINT, and so would all commands that tests start and stop with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing where all tests share two cores.
hypothesis.settings.register_profile("shared cores", deadline=None)
hypothesis.settings.load_profile("shared cores")

ROOT = Path(__file__).resolve().parent.parent


# End-to-end tests that mostly start servers of their own, stop, kill or overload them.
OWN_SERVERS = (
    "admission",
    "balance",
    "bulk",
    "container",
    "faults",
    "load",
    "released",
    "serve",
    "speed",
    "wheel",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Spread over processes, the end-to-end tests that share a server stay in one, and those with servers of their own
    in another one: each is about a third of all the work.

    (`--dist loadgroup` would do, but pytest 9.2 does not hand xdist 3.8's groups on.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ServersTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            _, found, name = nodeid.partition("tests/e2e/test_")
            if not found:
                return nodeid
            return "own servers" if name.startswith(OWN_SERVERS) else "shared server"

    return ServersTogether(config, log)


@pytest.fixture(scope="session")
def small_checkpoints() -> Path:
    """The folder of the small trained checkpoints, `florence2` and `sam2`."""
    return ROOT / "models" / "small"


@pytest.fixture(scope="session")
def reference(small_checkpoints: Path) -> Any:
    """`bench/reference.py`'s pipeline on the small checkpoints."""
    from bench.reference import Reference  # not at the top: it needs torch

    return Reference(small_checkpoints / "florence2", small_checkpoints / "sam2")


@pytest.fixture(scope="session")
def exports(small_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """The `exports.Exported` of the small checkpoints in a form. Not to be written to."""
    from exports import exported_in  # not at the top: it needs torch

    return functools.cache(lambda form: exported_in(form, small_checkpoints, tmp_path_factory.mktemp(form)))
