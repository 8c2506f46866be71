"""Thousands of random messages to a server of its own: it must answer each one in time and in fair words, lose no
process, take no more memory, and answer a right request afterwards as it did before.

A message is a right request of any model with up to four things done to it (types, shapes, lengths, names, contents,
parameters), or with values that are not. The same seed gives the same messages. Exit status: 0 no fault, 1 faults.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from bench.arguments import positive
from bench.fuzz.run import Outcome, run
from bench.quality.scenes import draw
from bench.speed.memory import server_processes, taken
from florence2_sam2.client import Segmentation, Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer

SEED = 1
MESSAGES = 10_000
MEMORY_MB = 300.0  # the server's memory of what pictures have cost is 128 of it


@dataclass(frozen=True)
class Report:
    """What the messages brought about in the server as a whole."""

    outcome: Outcome
    grown_mb: float
    lost: list[int]
    differs: bool
    seconds: float

    def faults(self) -> list[str]:
        found = list(self.outcome.faults)
        if self.lost:
            found.append(f"processes that ended: {self.lost}")
        if self.grown_mb > MEMORY_MB:
            found.append(f"memory has grown by {self.grown_mb:.0f} MB")
        if self.differs:
            found.append("a right request is answered otherwise than before")
        return found


def pictures() -> list[bytes]:
    """Small ones in several formats."""
    made = []
    for number, (form, mode) in enumerate(
        [
            ("JPEG", "RGB"),
            ("PNG", "RGBA"),
            ("PNG", "P"),
            ("WEBP", "RGB"),
            ("BMP", "L"),
            ("GIF", "P"),
            ("TIFF", "RGB"),
        ]
    ):
        image = Image.fromarray(draw(number).image).resize((96, 72)).convert(mode)
        file = io.BytesIO()
        image.save(file, form)
        made.append(file.getvalue())
    return made


def fuzz(server: EmbeddedServer, seed: int, count: int, say=lambda text: None) -> Report:
    """Send the messages to a ready server that this process has started."""
    picture = draw(0).image
    with Segmenter(server.grpc_address) as client:
        before = _answer(client, picture)
        run(server.grpc_address, seed + 1, min(count, 200), pictures())  # what is taken once and kept
        processes, start, began = server_processes(), _memory(), time.monotonic()
        outcome = run(server.grpc_address, seed, count, pictures(), say)
        seconds = time.monotonic() - began
        alive = set(server_processes())
        return Report(
            outcome,
            _memory() - start,
            [pid for pid in processes if pid not in alive],
            _answer(client, picture) != before,
            seconds,
        )


def _memory() -> float:
    return taken(server_processes(), "florence2_sam2_").total


def _answer(client: Segmenter, picture: np.ndarray) -> tuple[object, ...]:
    answer: Segmentation = client.segment(picture, area_threshold=1)
    return answer.caption, answer.objects, answer.filtered


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=positive, default=MESSAGES, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="(default: %(default)s)")
    options = parser.parse_args(arguments)
    with EmbeddedServer() as server:
        report = fuzz(
            server, options.seed, options.messages, lambda text: print(text, file=sys.stderr, flush=True)
        )
    faults = report.faults()
    print("\n".join(faults[:50]))
    outcome = report.outcome
    print(f"{options.messages} messages in {report.seconds:.0f} s: {dict(outcome.codes)}")
    print(f"slowest {outcome.slowest:.1f} s; memory {report.grown_mb:+.0f} MB; {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
