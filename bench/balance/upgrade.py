"""Other models in place of those that are served, and back again, behind nginx: two servers of each."""

from __future__ import annotations

import time

from bench.balance.job import Job
from bench.balance.load import Call, Load
from bench.balance.nginx import Nginx
from bench.balance.servers import Fleet, Server, places, start, until
from bench.balance.story import Story
from bench.balance.tuned import tuned
from bench.speed.results import Result, Row
from florence2_sam2.server.manifest import read_florence2

EACH = 2
NAME = "florence2-next"
IDLE_SECONDS = 60.0


def run(job: Job) -> Result:
    following = job.next_repository or tuned(job.repository, job.place("next"), NAME)
    checkpoints = [read_florence2(repository).source.checkpoint for repository in (job.repository, following)]
    if checkpoints[0] == checkpoints[1]:
        raise ValueError("both repositories are of the same checkpoint: their answers cannot be told apart")
    with Fleet(job.place("upgrade")) as fleet:
        old, new = (
            [fleet.add(f"{name} {number}", repository) for number in range(1, EACH + 1)]
            for name, repository in (("old", job.repository), ("new", following))
        )
        start(old)
        with (
            Nginx(job.nginx(), job.place("nginx-upgrade"), places(old)) as nginx,
            Load(nginx.segmenter, job.pictures, job.callers, job.period) as load,
        ):
            story = Story(fleet, load, job.say)
            story.calm("the old models", job.calm_seconds)
            with story.chapter("upgrade", counted=False):
                upgraded = exchange(nginx, old, new)
            story.calm("the new models", job.calm_seconds)
            with story.chapter("roll back", counted=False):
                back = exchange(nginx, new, old)
            story.calm("the old models again", job.calm_seconds)
        calls, lost = load.calls, story.lost()
        wrong = len(by_others(calls, checkpoints[1], upgraded[1], back[0]))
        wrong += len(by_others(calls, checkpoints[0], back[1], float("inf")))
        note = (
            "The new servers are started beside the old ones. When they are ready nginx is reloaded, and the old ones"
            " end."
        )
        rows = [
            Row(f"upgrade and roll back: calls lost of {len(calls)}", len(lost), "calls", 0, at_most=True),
            Row("answers by the other models after a change", wrong, "calls", 0, at_most=True),
            *(
                Row(f"answers by {name}", sum(call.checkpoint == name for call in calls), "calls", 1)
                for name in checkpoints
            ),
        ]
        return Result(
            rows, [story.table("Upgrade and roll back behind nginx", note)], {**story.raw(), "lost": lost}
        )


def exchange(nginx: Nginx, leaving: list[Server], coming: list[Server]) -> tuple[float, float]:
    """Other servers in place of those that run. Between two moments new calls may be answered by either: before and
    after nginx is told.

    Raises:
        ServerFailed, NginxFailed: as they say; what leaves is still there then.
        TimeoutError: what leaves has still calls.
    """
    start(coming)
    before = time.monotonic()
    nginx.reload(places(coming))
    # Calls may still be on their way to the old worker.
    time.sleep(1.5)
    after = time.monotonic()
    if not until(lambda: not any(server.in_flight() for server in leaving), IDLE_SECONDS):
        raise TimeoutError("the servers that leave still have calls")
    for server in leaving:
        server.stop()
    return before, after


def by_others(calls: list[Call], checkpoint: str, begin: float, end: float) -> list[Call]:
    """Calls sent between two moments that another checkpoint has answered."""
    return [call for call in calls if begin <= call.sent < end and call.checkpoint not in ("", checkpoint)]
