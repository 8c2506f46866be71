"""Servers that are killed, come back, are added and restarted, behind nginx or behind the client's own round robin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.balance.job import Job
from bench.balance.load import Load
from bench.balance.nginx import Nginx
from bench.balance.servers import Fleet, Server, places, start
from bench.balance.story import Chapter, Story
from bench.speed.results import Result, Row
from florence2_sam2.client import Segmenter

SERVERS = 3
LEAST_SHARE = 0.5  # of an equal part
# nginx leaves a server that it has met dead alone for five seconds.
SHARE_SECONDS = 15.0


class Entry:
    """What callers use: the client's own round robin over all servers, those that are not there yet among them."""

    def __init__(self, servers: list[Server]) -> None:
        self._servers = servers

    def segmenter(self) -> Segmenter:
        return Segmenter([server.grpc for server in self._servers])

    def changed(self, servers: list[Server]) -> None:
        """There are others now."""


class Proxied(Entry):
    """The same through nginx, which is told of each change."""

    def __init__(self, nginx: Nginx, servers: list[Server]) -> None:
        super().__init__(servers)
        self._nginx = nginx

    def segmenter(self) -> Segmenter:
        return self._nginx.segmenter()

    def changed(self, servers: list[Server]) -> None:
        self._nginx.reload(places(servers))


def by_client(job: Job) -> Result:
    return _acts(job, "round robin")


def by_nginx(job: Job) -> Result:
    return _acts(job, "nginx")


@contextmanager
def _entry(job: Job, way: str, servers: list[Server]) -> Iterator[Entry]:
    if way == "nginx":
        with Nginx(job.nginx(), job.place("nginx"), places(servers[:SERVERS])) as nginx:
            yield Proxied(nginx, servers)
    else:
        yield Entry(servers)


def _acts(job: Job, way: str) -> Result:
    with Fleet(job.place(way.replace(" ", "-"))) as fleet:
        servers = [fleet.add(f"server {number}") for number in range(1, SERVERS + 2)]
        start(servers[:SERVERS])
        with (
            _entry(job, way, servers) as entry,
            Load(entry.segmenter, job.pictures, job.callers, job.period) as load,
        ):
            story = Story(fleet, load, job.say)
            back, added = _tell(story, entry, servers, job.calm_seconds)
        lost = story.lost()
        title = f"Three servers, then four, behind {'nginx' if way == 'nginx' else 'the client’s own round robin'}"
        note = (
            f"{job.callers} callers, each with a call every {job.period:g} s, with the client as it is by default."
            " The last columns are the answers of each server."
        )
        rows = [
            Row(f"{way}: calls lost of {len(load.calls)}", len(lost), "calls", 0, at_most=True),
            _share(f"{way}: share of a server that is back", back, servers[1].name, SERVERS),
            _share(f"{way}: share of a server that was added", added, servers[-1].name, len(servers)),
        ]
        tables = [story.table(title, note)]
        return Result(rows, tables, {**story.raw(), "lost": lost})


def _tell(story: Story, entry: Entry, servers: list[Server], calm: float) -> tuple[Chapter, Chapter]:
    """All that happens; the stretches after a server has come back, and after one was added."""
    story.calm("three servers", calm)
    victim, fourth = servers[1], servers[-1]
    with story.chapter(f"{victim.name} is killed (SIGKILL)"):
        victim.kill()
        time.sleep(calm)
    with story.chapter("it is started again"):
        start([victim])
    back = story.calm("three servers again", max(calm, SHARE_SECONDS))
    with story.chapter("a fourth is started"):
        start([fourth])
        entry.changed(servers)
    added = story.calm("four servers", max(calm, SHARE_SECONDS))
    with story.chapter("each is restarted (SIGTERM)", counted=False):
        for server in servers:
            server.stop()
            start([server])
    story.calm("afterwards", calm)
    return back, added


def _share(what: str, chapter: Chapter, name: str, servers: int) -> Row:
    return Row(
        f"{what}, of an equal part, within {chapter.seconds:.0f} s",
        chapter.share_of_fair(name, servers),
        "%",
        LEAST_SHARE,
    )
