"""What the pieces share: the subject, how often to measure, one server at a time, the reference beside it."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.speed import pictures
from bench.speed.agreement import Agreement, Expected
from bench.speed.machine import cores
from bench.speed.prepare import Subject
from bench.speed.worker import Worker
from florence2_sam2.client import CaptionWritten, Finished, Florence2Settings, Segmentation, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.settings import Settings

TIMEOUT = 3600.0  # of a call: a full-size one among sixteen on two cores takes minutes
READY_SECONDS = 1800.0


@dataclass(frozen=True)
class Choices:
    """What the command line says. `quick`: as few repeats as show that everything works; their times mean nothing."""

    quick: bool = False
    eight_bit: Path | None = None
    perf_analyzer: Path | None = None
    reference_threads: int | None = None


class Bench:
    """Belongs to one thread; `segment` may be called from many."""

    def __init__(self, subject: Subject, output: Path, choices: Choices = Choices()) -> None:
        self.subject = subject
        self.output = output
        self.choices = choices
        self._server: tuple[Path, Settings, EmbeddedServer] | None = None
        self._segmenter: Segmenter | None = None
        self._reference: Worker | None = None

    def times(self, small: int, full: int, quick: int = 1) -> int:
        """How often something is done: on small checkpoints, on full-size ones, or only to see that it works."""
        return quick if self.choices.quick else full if self.subject.is_full else small

    def say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}   {text}", file=sys.stderr, flush=True)

    # -- pictures

    def pictures(self, count: int, first: int) -> list[bytes]:
        """`count` different pictures, as files."""
        return [pictures.picture(first + n, *self.subject.picture_size) for n in range(count)]

    # -- the server

    def server(self, repository: Path | None = None, **settings: Any) -> EmbeddedServer:
        """A ready server with those settings. The one that ran with others is stopped: there is one at a time."""
        wanted = (repository or self.subject.repository, Settings(**settings))
        if self._server is None or self._server[:2] != wanted:
            self.stop_server()
            server = EmbeddedServer(wanted[0], settings=wanted[1])
            try:
                server.start()
                server.wait_ready(READY_SECONDS)
            except BaseException:
                server.kill()
                raise
            self._server = (*wanted, server)
            self._segmenter = Segmenter(server.grpc_address, timeout=TIMEOUT)
        return self._server[2]

    def stop_server(self) -> None:
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None
        if self._server is not None:
            self._server[2].stop()
            self._server = None

    def segment(self, picture: bytes, **settings: Any) -> tuple[float, Segmentation]:
        """Seconds from sending to the typed answer, and the answer. The settings are on top of the subject's."""
        assert self._segmenter is not None, "no server runs"
        start = time.perf_counter()
        answer = self._segmenter.segment(picture, **{**self.subject.request, **settings})
        return time.perf_counter() - start, answer

    def stream(self, picture: bytes, **settings: Any) -> tuple[float, float, Segmentation]:
        """The same streamed: seconds to the end, seconds to the caption's event, and the answer."""
        assert self._segmenter is not None, "no server runs"
        start, caption = time.perf_counter(), 0.0
        for event in self._segmenter.stream(picture, **{**self.subject.request, **settings}):
            if isinstance(event, CaptionWritten):
                caption = time.perf_counter() - start
            elif isinstance(event, Finished):
                return time.perf_counter() - start, caption, event.result
        raise AssertionError("a stream ends with its answer, or an error")

    def caption(self, picture: bytes, **settings: Any) -> float:
        """Seconds of a `florence2` call that writes the same caption."""
        assert self._segmenter is not None, "no server runs"
        known = Florence2Settings.__annotations__.keys()
        given = {**self.subject.request, **settings}
        start = time.perf_counter()
        self._segmenter.florence2(picture, **{name: value for name, value in given.items() if name in known})
        return time.perf_counter() - start

    # -- the reference

    def reference(self) -> Worker:
        """The reference on the same checkpoints, as fast as it gets: a `ReferenceSide`."""
        if self._reference is None:
            subject = self.subject
            # torch takes all cores unless a variable of the shell says otherwise.
            self._reference = Worker(
                reference_side,
                subject.florence2,
                subject.sam2,
                subject.tokens,
                self.choices.reference_threads,
                environment={"OMP_NUM_THREADS": None, "MKL_NUM_THREADS": None},
            )
            self.choose_threads(self.pictures(1, 0))
        return self._reference

    def choose_threads(self, pictures: list[bytes]) -> None:
        """Let the reference take the number of threads with which it is fastest on one picture, or on several
        together. Full-size networks always gain by more threads: nothing is tried there."""
        if self.subject.is_full or self.choices.reference_threads or cores() == 1:
            return
        repeats = self.times(3, 1) if len(pictures) == 1 else 1
        seconds = self.reference().call("choose_threads", pictures, repeats)
        shown = ", ".join(f"{threads}: {1e3 * s:.0f} ms" for threads, s in seconds.items())
        self.say(f"the reference on {len(pictures)} pictures with threads {shown}")

    def refer(self, picture: bytes, beams: int) -> tuple[float, Expected]:
        """Seconds and result of the reference for one picture."""
        answer: tuple[float, Expected] = self.reference().call(
            "segment", picture, num_beams=beams, **self.subject.reference
        )
        return answer

    def stop_reference(self) -> None:
        if self._reference is not None:
            self._reference.close()
            self._reference = None

    def check_tokens(self, agreement: Agreement, picture: bytes, beams: int, expected: Expected) -> None:
        """Token by token, outside of what is timed."""
        assert self._server is not None, "no server runs"
        agreement.compare_tokens(self._server[2].grpc_address, picture, beams, expected)

    def close(self) -> None:
        self.stop_reference()
        self.stop_server()


def reference_side(*arguments: Any) -> Any:
    """A `ReferenceSide`. Only its own process is to import torch."""
    from bench.speed.reference_side import ReferenceSide

    return ReferenceSide(*arguments)
