"""A name that stands for one server more leads a client there by itself, when it loses a connection or one is ended."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "named_peers.py"


def _own_hosts(folder: Path) -> list[str]:
    """A command before a command, which then has an /etc/hosts of its own. Skips the test where that is not allowed."""
    hosts = folder / "hosts"
    shutil.copy("/etc/hosts", hosts)
    command = ["unshare", "--mount", "sh", "-c", f'mount --bind {hosts} /etc/hosts && exec "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("may not mount in a namespace of its own")
    return command


@pytest.mark.long
@pytest.mark.parametrize("connection_ms", [0, 2000])
def test_the_name_is_looked_up_again(tmp_path: Path, connection_ms: int) -> None:
    before = Path("/etc/hosts").read_text()
    command = [*_own_hosts(tmp_path), sys.executable, str(PROGRAM), str(connection_ms)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    # gRPC looks a name up every 30 s at most.
    assert 0 <= float(done.stdout) < 60
    assert Path("/etc/hosts").read_text() == before
