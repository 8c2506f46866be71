"""What is told of each call that has ended: a line in the access log, spans for OpenTelemetry.

A call hands its record over and goes on; a thread of its own writes and exports. When that falls behind, as with a disk
that does not answer, records are dropped.
"""

from __future__ import annotations

import json
import queue
import re
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from florence2_sam2.server import access_log, tracing
from florence2_sam2.server.errors import InvalidRequest, ServiceError, shown
from florence2_sam2.server.records import Record
from florence2_sam2.server.settings import Settings

MOST_WAITING = 4096
END_SECONDS = 2.0  # that the end of a process waits for what is left
_LONGEST_MESSAGE = 300
# Names as the service has them; what else stands before a message's colon was the caller's own text.
_FIELD = r"[a-z][a-z0-9_]{0,30}(\.[a-z][a-z0-9_]{0,30})?(\[\d{1,6}\])?"


class Ended(NamedTuple):
    """A call that has ended, at a time of `time.perf_counter`. (Not its error: that would keep the request.)"""

    record: Record
    parent: tracing.Parent | None
    code: str
    ended: float


class Reports:
    """Of one model. `put` may be called from any thread.

    Args:
        complain: is told, now and then, what of the telling does not work.

    Raises:
        ValueError: traces are wanted, but OpenTelemetry is not installed.
    """

    def __init__(self, settings: Settings, complain: Callable[[str], None]) -> None:
        self._log = access_log.AccessLog(settings.access_log, complain) if settings.access_log else None
        self._tracer = tracing.Tracer(complain) if settings.tracing else None
        self._complain = complain
        self.enabled = bool(self._log or self._tracer)
        self._waiting: queue.Queue[Ended | None] = queue.Queue(MOST_WAITING)
        self._dropped = 0
        self._thread = threading.Thread(target=self._work, name="reports", daemon=True)
        if self.enabled:
            self._thread.start()

    def put(self, record: Record, parent: tracing.Parent | None, refusal: ServiceError | None) -> None:
        """Tell of a call that ends now; returns at once. `refusal`: what it has failed with."""
        if not self.enabled:
            return
        record.close()
        record.facts.update(_refusal(refusal))
        code = "OK" if refusal is None else refusal.code
        try:
            self._waiting.put_nowait(Ended(record, parent, code, time.perf_counter()))
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Tell what is left, within a few seconds."""
        if not self.enabled:
            return
        end = time.monotonic() + END_SECONDS
        try:
            self._waiting.put(None, timeout=END_SECONDS)
        except queue.Full:
            return
        self._thread.join(max(end - time.monotonic(), 0))
        if self._tracer is not None:
            self._tracer.close(max(end - time.monotonic(), 0.1))

    def _work(self) -> None:
        while (ended := self._waiting.get()) is not None:
            try:
                self._tell(ended)
            except Exception as error:  # a bug must not end the telling, nor harm a call
                self._complain(f"a call cannot be told of ({type(error).__name__})")
        if self._log is not None:
            self._log.close()

    def _tell(self, ended: Ended) -> None:
        record, parent = ended.record, ended.parent
        trace = parent.trace_id if parent else None
        if self._tracer is not None:
            trace = self._tracer.export(record, parent, ended.code, ended.ended)
        if self._log is not None:
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                self._log.lose(dropped, "calls end faster than lines can be written")
            self._log.write(line(ended, trace))


def line(ended: Ended, trace_id: str | None) -> bytes:
    """A line of the access log, without its end. docs/monitoring.md lists the fields."""
    record = ended.record
    came = datetime.fromtimestamp(record.began_ns / 1e9, UTC).isoformat(timespec="milliseconds")
    body: dict[str, Any] = {
        "time": came.replace("+00:00", "Z"),
        "request_id": record.request_id,
        **({"trace_id": trace_id} if trace_id else {}),
        "model": record.model,
        "code": ended.code,
        "seconds": round(ended.ended - record.began, 4),
    }
    return json.dumps(body | record.facts, separators=(",", ":")).encode()


def _refusal(error: ServiceError | None) -> dict[str, Any]:
    """Which field was wrong; of all other failures the message, which is this server's own. (A wrong request's repeats
    what the caller has written.)
    """
    if error is None:
        return {}
    if isinstance(error, InvalidRequest):
        return {"field": error.field if re.fullmatch(_FIELD, error.field) else "other"}
    return {"error": shown(error.message, _LONGEST_MESSAGE)}
