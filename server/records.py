"""What is noted of a call while it is worked on: its id, facts for the log, and spans of time.

The record of the call that a task works on is found by a context variable, so that whatever the task calls may note
something. Work that is shared (see `segment/memory.py`) belongs to the call that has begun it. Times are those of
`time.perf_counter`, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from florence2_sam2.server.errors import Cancelled, ServiceError

# Spans of one call. Tiles, and hundreds of boxes, make many runs of models; a trace with thousands tells nobody more.
MOST_SPANS = 250
FETCH = "fetch"  # the span in which a picture comes from another server
STAGES, WAITED = "stages_ms", "waited"  # facts

Facts: TypeAlias = dict[str, Any]


@dataclass
class Span:
    """A part of a call's time. `parent`: index of the span that it is a part of; `code`: what it has failed with."""

    name: str
    begin: float
    parent: int | None = None
    end: float | None = None
    code: str | None = None
    attributes: Facts = field(default_factory=dict)


class Record:
    """Belongs to one event loop.

    Args:
        model: that was called.
        keeps: whether facts and spans are wanted by anybody.
    """

    def __init__(self, model: str, request_id: str, keeps: bool = False) -> None:
        self.model, self.request_id, self.keeps = model, request_id, keeps
        self.began, self.began_ns = time.perf_counter(), time.time_ns()
        self.facts: Facts = {}
        self.spans: list[Span] = []
        self.memory: Counter[str] = Counter()

    def begin(self, name: str, parent: int | None, attributes: Mapping[str, Any]) -> int | None:
        """A span that begins now: its index, or None if it is not kept."""
        if not self.keeps or len(self.spans) >= MOST_SPANS:
            return None
        self.spans.append(Span(name, time.perf_counter(), parent, attributes=dict(attributes)))
        return len(self.spans) - 1

    def end(self, index: int | None, error: BaseException | None = None) -> None:
        """The span ends now."""
        if index is not None:
            self.spans[index].end = time.perf_counter()
            self.spans[index].code = code_of(error)

    def stages_ms(self) -> dict[str, float]:
        """Milliseconds in the spans that are parts of no other, by name; those that go on have none yet."""
        found: dict[str, float] = {}
        for span in self.spans:
            if span.parent is None and span.end is not None:
                found[span.name] = found.get(span.name, 0.0) + 1e3 * (span.end - span.begin)
        return {name: round(milliseconds, 2) for name, milliseconds in found.items()}

    def close(self) -> None:
        """Nothing is added any more: what was under way ends now, and has not come to its own end."""
        if not self.keeps:
            return
        self.keeps = False
        if self.memory:
            self.facts["memory"] = dict(self.memory)
        if stages := self.stages_ms():
            self.facts.setdefault(
                STAGES, stages
            )  # of a model that only hands calls on, those of the other one
        now = time.perf_counter()
        # Copies: shared work may outlive its call, and end its spans while they are being read.
        self.spans = [
            Span(span.name, span.begin, span.parent, now, "CANCELLED", span.attributes)
            if span.end is None
            else span
            for span in self.spans
        ]

    def told(self) -> dict[str, Any]:
        """For the record of the model that has called, as JSON."""
        self.close()
        return {"facts": self.facts, "spans": [list(vars(span).values()) for span in self.spans]}

    def adopt(self, told: Mapping[str, Any], parent: int | None, as_own: bool) -> None:
        """Take in what a model that was called has `told`.

        Args:
            parent: the span of the call to it.
            as_own: its facts are this call's; else they are attributes of that span.
        """
        if not self.keeps or parent is None:
            return
        if as_own:
            self.facts.update(told["facts"])
        else:
            more = {name: value for name, value in told["facts"].items() if name != STAGES}
            self.spans[parent].attributes.update(more)
        first = len(self.spans)
        for row in told["spans"][: MOST_SPANS - first]:
            span = Span(*row)
            span.parent = parent if span.parent is None else first + span.parent
            self.spans.append(span)


_PLACE: ContextVar[tuple[Record, int | None] | None] = ContextVar("florence2_sam2_record", default=None)


def enter(record: Record) -> None:
    """From here on, the running task works on that call."""
    _PLACE.set((record, None))


def current() -> Record | None:
    """The record of the call that the running task works on."""
    place = _PLACE.get()
    return place[0] if place else None


def request_id() -> str | None:
    """Of that call."""
    place = _PLACE.get()
    return place[0].request_id if place else None


def note(**facts: Any) -> None:
    """Facts of that call, by the names that they have in the log. None is no fact."""
    record = current()
    if record is not None and record.keeps:
        record.facts.update({name: value for name, value in facts.items() if value is not None})


def count_memory(how: str) -> None:
    """A result that the call has asked the memory for."""
    record = current()
    if record is not None and record.keeps:
        record.memory[how] += 1


@contextmanager
def span(name: str, **attributes: Any) -> Iterator[int | None]:
    """Within, a span of that call; spans that begin meanwhile are its parts. Gives its index, None if none is kept."""
    place = _PLACE.get()
    if place is None or not place[0].keeps:
        yield None
        return
    record, parent = place
    index = record.begin(name, parent, attributes)
    token = _PLACE.set((record, parent if index is None else index))
    try:
        yield index
    except BaseException as error:
        record.end(index, error)
        raise
    else:
        record.end(index)
    finally:
        _PLACE.reset(token)


def parts(begin: float, milliseconds: Mapping[str, float], not_before: float = 0.0) -> None:
    """Spans that follow each other from `begin` on, of a work that has measured itself, as far as they are not before
    `not_before`."""
    place = _PLACE.get()
    if place is None:
        return
    for name, took in milliseconds.items():
        index = place[0].begin(name, place[1], {})
        if index is not None:
            part = place[0].spans[index]
            part.begin, part.end = max(begin, not_before), max(begin + took / 1e3, not_before)
        begin += took / 1e3


def code_of(error: BaseException | None) -> str | None:
    """As metrics and logs name it; None where nothing has failed."""
    if error is None:
        return None
    if isinstance(error, asyncio.CancelledError):
        return Cancelled.code
    return error.code if isinstance(error, ServiceError) else ServiceError.code
