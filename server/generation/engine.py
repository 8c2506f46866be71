"""Continuous batching: one thread owns the decoder, requests join and leave it between steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from florence2_sam2.server.errors import Overloaded
from florence2_sam2.server.generation import search
from florence2_sam2.server.generation.decoder import Decoder, ImageFeatures
from florence2_sam2.server.generation.settings import Settings
from florence2_sam2.server.generation.waiting import Completed, Priority, Request, Waiting
from florence2_sam2.server.generation.work import Work

_SWEEP_S = 0.05  # how often those who wait are asked whether they still want to
_FIRST_TOLD = 4  # a text's progress is told after so many tokens, so that even a short one is seen growing,
_PROGRESS_S = 0.03  # and then no more often than this


@dataclass(eq=False)
class _Sequence:
    """A request that is decoding: beam i occupies decoder row `rows[i]` and is fed `tokens[i]` next."""

    request: Request
    search: search.Search
    rows: list[int]
    tokens: list[int]
    waiting_s: float
    encoding_s: float
    began: float
    steps: int = 0
    told: float = 0.0

    def tell(self) -> None:
        """Its tokens so far, to whoever wants to know."""
        if self.request.progress is None or self.steps < _FIRST_TOLD:
            return
        now = time.monotonic()
        if now - self.told >= _PROGRESS_S:
            self.told = now
            self.request.progress(self.search.so_far())

    def complete(self) -> None:
        generated = self.search.result()
        self.request.future.set_result(
            Completed(
                generated.token_ids,
                generated.log_probability,
                generated.token_log_probabilities,
                self.steps,
                self.waiting_s,
                self.encoding_s,
                time.monotonic() - self.began,
            )
        )


@dataclass(frozen=True)
class Pulse:
    """Whether an engine works: its thread is `alive`; it has made so many `rounds`, each a prompt, a step or both; and
    for `still` seconds there has been work and no round has ended.
    """

    alive: bool
    rounds: int
    still: float


class Engine:
    """Generates for many requests at once; each gets the tokens it would get alone.

    A request's prompt is encoded when it joins, one between two steps, and takes one row per beam.

    Args:
        decoder: owned by the engine's thread from here on.
        max_waiting: requests beyond this many are refused.
        interactive_rows: rows that bulk requests leave free.
        bulk_patience: seconds after which a bulk request joins although interactive ones are decoding.

    Attributes:
        work: what it has done until now.
    """

    def __init__(
        self,
        decoder: Decoder,
        max_waiting: int = 1024,
        interactive_rows: int = 3,
        bulk_patience: float = 5.0,
    ) -> None:
        self._decoder = decoder
        self._max_waiting = max_waiting
        self._waiting = Waiting(interactive_rows, bulk_patience)
        self._active: list[_Sequence] = []
        self._changed = threading.Condition()
        self._closed = False
        self._next_sweep = 0.0
        self._rounds = 0
        self.work = Work()
        self._moved = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(
        self,
        image_features: ImageFeatures,
        prompt_ids: NDArray[np.int64],
        settings: Settings,
        priority: Priority = "interactive",
        cancelled: Callable[[], bool] = lambda: False,
        progress: Callable[[list[int]], None] | None = None,
        alone: bool = False,
    ) -> Future[Completed]:
        """Queue a request. `image_features` as the decoder takes them, `prompt_ids` [P] with `<s>` and `</s>`.

        `cancelled` is called from the engine's thread before the request begins and after each of its steps; it
        must be quick. When it is true the future gets Cancelled, when it raises, that error. `progress` gets the tokens
        so far, after a step, now and then; a beam search may take them back. `alone`: nothing else is under way, as
        far as is known.

        Raises:
            Overloaded: `max_waiting` requests wait already, or the engine has been closed.
            ValueError: it has more beams than the decoder has rows.
        """
        if settings.num_beams > self._decoder.max_rows:
            raise ValueError(f"{settings.num_beams} beams do not fit {self._decoder.max_rows} rows")
        request = Request(image_features, prompt_ids, settings, priority, cancelled, progress, alone)
        with self._changed:
            if self._closed:
                raise Overloaded("the server is shutting down")
            if len(self._waiting) >= self._max_waiting:
                raise Overloaded(f"{self._max_waiting} requests wait for Florence-2 already")
            if not self._has_work():
                self._moved = time.monotonic()
            self._waiting.put(request)
            self._changed.notify()
        return request.future

    def load(self) -> dict[str, int]:
        """How many requests wait and decode, and how many rows they hold: for metrics."""
        return {
            "waiting": len(self._waiting),
            "decoding": len(self._active),
            "rows": self._decoder.rows,
        }

    def pulse(self) -> Pulse:
        """Whether it works. From any thread, and at once."""
        still = time.monotonic() - self._moved if self._has_work() else 0.0
        return Pulse(self._thread.is_alive() and not self._closed, self._rounds, still)

    def close(self) -> None:
        """End the thread after the current step. What is not finished gets Overloaded."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                began = time.monotonic()
                self._admit()
                if self._active:
                    self._step()
                self._rounds += 1
                self._moved = time.monotonic()
                self.work.seconds += self._moved - began
        finally:
            # Also when a bug ends the thread: nobody may wait for ever.
            with self._changed:
                self._closed = True
                left = [*self._waiting.drain(), *(sequence.request for sequence in self._active)]
            for request in left:
                request.fail(Overloaded("the server is shutting down"))

    def _wait_for_work(self) -> bool:
        with self._changed:
            while not (self._closed or self._has_work()):
                self._changed.wait()
            return not self._closed

    def _has_work(self) -> bool:
        return bool(self._active or len(self._waiting))

    def _admit(self) -> None:
        """Let one waiting request join, if it fits."""
        now = time.monotonic()
        if now >= self._next_sweep:
            self._sweep()
            self._next_sweep = now + _SWEEP_S
        with self._changed:
            taken = sum(sequence.request.settings.num_beams for sequence in self._active)
            interactive = any(sequence.request.priority == "interactive" for sequence in self._active)
            request = self._waiting.take(self._decoder.max_rows - taken, interactive, not self._active)
        now = time.monotonic()  # it may have come a moment ago only
        if request is None or not request.is_wanted() or not request.future.set_running_or_notify_cancel():
            return
        # Whatever one request's features or prompt bring about must not end the thread that serves all.
        try:
            alone = request.alone and not self._active
            encoded = self._decoder.encode(request.image_features, request.prompt_ids, alone)
            row = self._decoder.add(encoded)
        except Exception as error:
            request.fail(error)
            return
        began = time.monotonic()
        settings = request.settings
        self._active.append(
            _Sequence(
                request,
                search.start(settings),
                [row],
                [settings.decoder_start],
                now - request.submitted,
                began - now,
                began,
            )
        )

    def _sweep(self) -> None:
        """Answer those whose callers have given up waiting. The callers' code runs outside the lock."""
        with self._changed:
            waiting = self._waiting.everyone()
        unwanted = {request for request in waiting if not request.is_wanted()}
        if unwanted:
            with self._changed:
                self._waiting.leave(unwanted)

    def _step(self) -> None:
        """One token for everyone."""
        tokens = [0] * self._decoder.rows
        for sequence in self._active:
            for row, token in zip(sequence.rows, sequence.tokens, strict=True):
                tokens[row] = token
        # Out of memory, a lost device: those in the batch fail, the next ones may do better.
        try:
            logits = self._decoder.step(tokens)
            self.work.steps += 1
            self.work.rows += len(tokens)
        except Exception as error:
            for sequence in self._active:
                sequence.request.fail(error)
            self._active.clear()
            self._decoder.remove(range(self._decoder.rows))
            return
        freed: list[int] = []
        still_active = []
        for sequence in self._active:
            unused = self._advance(sequence, logits)
            if unused is None:
                freed += sequence.rows
            else:
                freed += unused
                still_active.append(sequence)
        self._active = still_active
        if freed:
            moved = self._decoder.remove(freed)
            for sequence in still_active:
                sequence.rows = [moved.get(row, row) for row in sequence.rows]

    def _advance(self, sequence: _Sequence, logits: NDArray[np.float32]) -> list[int] | None:
        """Choose a sequence's next tokens; returns the rows it needs no more, or None when it has ended."""
        sequence.steps += 1
        if not sequence.request.is_wanted():
            return None
        # For instance logits that are no numbers: this request's misfortune alone.
        try:
            continuation = sequence.search.step(_rows(logits, sequence.rows))
            if continuation is None:
                sequence.complete()
                return None
            sequence.tokens = continuation.tokens
            sequence.tell()
            return self._reorder(sequence, continuation.parents)
        except Exception as error:
            sequence.request.fail(error)
            return None

    def _reorder(self, sequence: _Sequence, parents: list[int]) -> list[int]:
        """Give beam i a row that continues beam `parents[i]`; returns the rows left over.

        The first child of a beam stays in its row, whatever its new rank: only further children cost a copy, into
        the rows of beams that have no child, or into new rows.
        """
        spare = [row for beam, row in enumerate(sequence.rows) if beam not in parents]
        rows: list[int] = []
        for parent in parents:
            row = sequence.rows[parent]
            if row in rows:
                source = row
                if spare:
                    row = spare.pop()
                    self._decoder.copy_past(source, row)
                else:
                    row = self._decoder.fork(source)
            rows.append(row)
        sequence.rows = rows
        return spare


def _rows(logits: NDArray[np.float32], rows: list[int]) -> NDArray[np.float32]:
    """The given rows in their order; where they lie side by side, as mostly, without a copy."""
    first, count = rows[0], len(rows)
    if rows == list(range(first, first + count)):
        return logits[first : first + count]
    return logits[rows]
