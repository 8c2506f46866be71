"""One process alone makes an export; one that fails or is killed leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from cache_machine import FLORENCE2, SAM2, Machine, until

from florence2_sam2.cache import exporting, obtain
from florence2_sam2.cache.exporting import ExportFailed
from florence2_sam2.cache.obtain import Obtained


def test_two_at_once_export_once(machine: Machine) -> None:
    machine.tell("wait")
    results: list[tuple[Obtained, list[str]]] = []
    threads = []
    said: list[list[str]] = [[], []]

    def start(index: int) -> None:
        got = obtain.obtain(FLORENCE2, SAM2, "fp32", "float", machine.cache, said[index].append)
        results.append((got, said[index]))

    for index in range(2):
        threads.append(threading.Thread(target=start, args=(index,)))
        threads[-1].start()
        until(lambda: machine.stages())
    until(lambda: any("waiting" in line for line in said[1]))
    assert not results
    machine.forget("wait")
    for thread in threads:
        thread.join(30)
    assert len(results) == 2
    assert len(machine.exports()) == 1
    assert [line for line in said[1] if line.startswith("another process exports")]
    assert said[1][-1].endswith("exported before")


def test_whoever_waits_for_an_export_that_fails_makes_it(machine: Machine) -> None:
    machine.tell("wait")
    outcomes: dict[str, object] = {}

    def start(name: str) -> None:
        try:
            outcomes[name] = machine.obtain()[0]
        except ExportFailed as error:
            outcomes[name] = error

    first = threading.Thread(target=start, args=("first",))
    first.start()
    until(lambda: machine.stages())
    second = threading.Thread(target=start, args=("second",))
    second.start()
    time.sleep(0.2)
    machine.tell("fail")
    machine.forget("wait")
    first.join(30)
    machine.forget("fail")
    second.join(30)
    assert isinstance(outcomes["first"], ExportFailed)
    # The second one may have begun before the switch was turned: then it failed as well, and said so.
    assert isinstance(outcomes["second"], Obtained | ExportFailed)
    assert len(machine.exports()) == 2


@pytest.mark.parametrize(("how", "says"), [("fail", "^the checkpoint cannot be served$"), ("die", "SIGABRT")])
def test_an_export_that_fails_leaves_nothing(machine: Machine, how: str, says: str) -> None:
    machine.tell(how)
    with pytest.raises(ExportFailed, match=says) as caught:
        machine.obtain()
    assert "\n" not in str(caught.value)
    assert not machine.cache.entries()
    assert not machine.stages()
    machine.forget(how)
    machine.obtain()


def test_an_interrupt_ends_the_export_and_leaves_nothing(machine: Machine) -> None:
    machine.tell("wait")

    def interrupted(text: str) -> None:
        if "half" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        obtain.obtain(FLORENCE2, SAM2, "fp32", "float", machine.cache, interrupted)
    assert not machine.stages()
    machine.forget("wait")
    machine.obtain()
    assert len(machine.exports()) == 2


def test_a_process_killed_in_the_middle_takes_its_export_along(machine: Machine) -> None:
    machine.tell("wait")
    code = (
        "import sys; from pathlib import Path; from florence2_sam2.cache import exporting, obtain;"
        " from florence2_sam2.cache.store import Cache; exporting.WORKER = (sys.argv[1],);"
        f" obtain.obtain({FLORENCE2!r}, {SAM2!r}, 'fp32', 'float', Cache(Path(sys.argv[2])), print)"
    )
    arguments = [sys.executable, "-c", code, exporting.WORKER[0], str(machine.cache.folder)]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    until(lambda: machine.stages() or process.poll() is not None)
    worker = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0])
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(
        lambda: (
            not Path(f"/proc/{worker}").exists()
            or "\nState:\tZ" in Path(f"/proc/{worker}/status").read_text()
        )
    )
    assert machine.stages(), "the test killed it too late"
    assert not machine.cache.entries()[0].is_whole
    machine.forget("wait")
    machine.obtain()
    assert len(machine.exports()) == 2
    assert not machine.stages()
