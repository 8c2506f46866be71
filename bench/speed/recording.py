"""One piece of a bench run and kept, whatever happens in it, with what the machine was doing meanwhile."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.speed import machine
from bench.speed.results import Json, Ran, Result

QUIET_CORES = 0.1  # what a machine that does nothing else may be busy with


def recorded(name: str, settings: Json, measure: Callable[[], Result], clear_up: Callable[[], None]) -> Ran:
    """What `measure` gives, with the machine, the time it took, and who else was busy.

    Args:
        clear_up: called when it fails, so that the next piece inherits nothing in an unknown state.
    """
    print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
    told, watch, start = machine.describe(), machine.Watch(), time.monotonic()
    result, error = Result(), ""
    try:
        result = measure()
    except Exception:
        error = traceback.format_exc()
        print(error, file=sys.stderr, flush=True)
        clear_up()
    seconds = time.monotonic() - start
    print(f"           {seconds:.0f} s", file=sys.stderr, flush=True)
    told["others"] = others = watch.others()
    if others["busy_cores"] + others["stolen_cores"] > QUIET_CORES:
        busy = f"{others['busy_cores']:.2f} cores were busy with other things, {others['stolen_cores']:.2f} stolen"
        print(f"           meanwhile {busy}: these times mean little", file=sys.stderr, flush=True)
    return Ran(name, settings, told, time.strftime("%Y-%m-%d %H:%M:%S"), round(seconds, 1), result, error)


def kept(output: Path, name: str, settings: Json) -> Ran | None:
    """What an earlier run with the same settings has kept of a piece, failed or not."""
    try:
        ran = Ran.read(output / f"{name}.json")
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return ran if ran.settings == settings else None


def all_kept(output: Path, names: Iterable[str], settings: Json) -> list[Ran]:
    """Those of `names` of which a run with these settings has kept something."""
    return [ran for name in names if (ran := kept(output, name, settings)) is not None]
