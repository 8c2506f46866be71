"""A run, from the first look at its input to its last word: begin or go on, hand out what is missing, add up."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from florence2_sam2.bulk import begin, cluster, shard
from florence2_sam2.bulk.begin import Options
from florence2_sam2.bulk.errors import BulkError
from florence2_sam2.bulk.folder import Folder
from florence2_sam2.bulk.owner import Owner
from florence2_sam2.bulk.plan import Plan
from florence2_sam2.bulk.rows import Summary
from florence2_sam2.bulk.shard import Told
from florence2_sam2.bulk.worker import Job, Outcome

MANIFEST = "_manifest.json"
COUNTS = ("pictures", "failed", "objects")
_MANIFEST_SECONDS = 30.0
_READERS = 16  # threads that look into the files of earlier runs


@dataclass
class State:
    """What is known of the shards. Two threads have to do with it."""

    plan: Plan
    finished: dict[int, Summary]
    before: int = 0
    """Pictures of shards that earlier runs have finished."""
    under_way: dict[int, Told] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    """Shards that this run could not do, and why."""
    stopped: str | None = None
    """Why the run ends before all shards are done."""
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    @property
    def is_complete(self) -> bool:
        return len(self.finished) == self.plan.shards

    def total(self, name: str) -> int:
        """`pictures`, `failed` or `objects` of the finished shards, and of what is under way."""
        with self._lock:
            return sum(
                int(getattr(part, name)) for part in (*self.finished.values(), *self.under_way.values())
            )

    def add(self, outcome: Outcome) -> None:
        """A worker is done with a shard."""
        with self._lock:
            self.under_way.pop(outcome.shard, None)
            if outcome.error is None:
                counts = (outcome.pictures, outcome.failed, outcome.objects)
                self.finished[outcome.shard] = Summary(self.plan.id, outcome.shard, *counts)
            elif outcome.fatal:
                self.stopped = outcome.error
            else:
                self.broken[outcome.shard] = outcome.error

    def tell(self, told: Mapping[int, Told]) -> None:
        """How far workers are; what is finished or broken is not under way any more."""
        with self._lock:
            over = self.finished.keys() | self.broken.keys()
            self.under_way.update((number, one) for number, one in told.items() if number not in over)

    def left(self) -> list[int]:
        """Shards that are not done."""
        return [number for number in range(self.plan.shards) if number not in self.finished]


def run(
    options: Options,
    began: Callable[[State], None],
    tick: Callable[[State], None],
    told: Callable[[str], None],
) -> State:
    """Do what is missing in the output folder, or all of it.

    Args:
        began: is called before the first picture is asked about.
        tick: is called now and then.
        told: is told what is waited for.

    Raises:
        WrongUsage: nothing was sent.
        BulkError: the run cannot go on.
        OSError: the output folder cannot be written.
    """
    folder = Folder(options.output)
    beginning = (
        begin.prepare(options) if Plan.load(folder) is None else None
    )  # a mistake there makes no folder
    folder.make()
    lost = threading.Event()
    with Owner(folder, lost.set, told):
        folder.sweep()
        plan = Plan.load(folder)
        if plan is None:
            plan = begin.new(options, folder, beginning or begin.prepare(options))
            state = State(plan, {})
        else:
            begin.require_same(options, plan)
            state = State(plan, _finished(folder, plan))
            state.before = state.total("pictures")
            if not state.is_complete:
                begin.require_same_server(options, plan)
        began(state)
        if not state.is_complete:
            _do(options, folder, state, lost, tick)
        return state


def _do(
    options: Options,
    folder: Folder,
    state: State,
    lost: threading.Event,
    tick: Callable[[State], None],
) -> None:
    """Hand out the shards that are left, until all are done or something stops the run."""
    job = Job(
        options.output,
        state.plan,
        options.servers,
        options.timeout,
        options.patience,
        options.in_flight,
        "client" if options.fetch_here else "server",
        options.url_rules,
        options.credentials,
    )
    _save(folder, state)  # it must not tell of shards whose files have been taken away
    written = time.monotonic()

    def look_after(told: Mapping[int, Told]) -> None:
        nonlocal written
        state.tell(told)
        tick(state)
        if lost.is_set():
            raise BulkError(
                f"{options.output} has been taken over by another run, which took this one for dead"
            )
        if time.monotonic() - written > _MANIFEST_SECONDS:
            written = time.monotonic()
            _save(folder, state)

    shards = state.left()
    workers = min(options.workers, len(shards))
    try:
        with (
            cluster.connected(options.ray_address, workers),
            contextlib.closing(cluster.outcomes(shards, job, workers, look_after)) as outcomes,
        ):
            for outcome in outcomes:
                state.add(outcome)
                if state.stopped is not None:
                    break
    finally:
        state.under_way.clear()
        if not lost.is_set():
            with contextlib.suppress(BulkError, OSError):  # what ends the run is more to the point
                # Ray has not told all of it yet; and the manifest may be behind what has been told.
                state.finished = _finished(folder, state.plan) | state.finished
                tick(state)
                _save(folder, state)


def _save(folder: Folder, state: State) -> None:
    """The manifest: what is in each finished shard. It may be behind; the shards' files are what counts."""
    finished = sorted(state.finished.copy().items())
    counts = {number: {name: getattr(one, name) for name in COUNTS} for number, one in finished}
    body = {
        "plan": state.plan.id,
        "complete": state.is_complete,
        **{name: sum(one[name] for one in counts.values()) for name in COUNTS},
        "shards": {state.plan.file(number): one for number, one in counts.items()},
    }
    folder.replace(MANIFEST, (json.dumps(body, indent=1) + "\n").encode())


def _finished(folder: Folder, plan: Plan) -> dict[int, Summary]:
    """What is in the finished shards: from the manifest, or from the file where that came after it.

    Raises:
        BulkError: a file is none of this plan's.
    """
    there = plan.finished(folder.names())
    known: dict[int, Summary] = {}
    try:
        body = json.loads(folder.read(MANIFEST) or b"{}")
        if body.get("plan") == plan.id:
            known = {
                number: Summary(plan.id, number, **body["shards"][plan.file(number)])
                for number in there
                if plan.file(number) in body["shards"]
            }
    except (ValueError, KeyError, TypeError):
        known = {}  # all is in the files
    with ThreadPoolExecutor(_READERS) as pool:
        rest = sorted(there - known.keys())
        for number, found in zip(
            rest, pool.map(lambda number: shard.summary(folder, plan, number), rest), strict=True
        ):
            if found is not None:
                known[number] = found
    return known
