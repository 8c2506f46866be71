"""Small files that would cost gigabytes or minutes cost next to nothing.

They are decoded in a process of their own, whose peak of memory is then known.
"""

from __future__ import annotations

import pickle
import subprocess
import sys

import pytest
from bombs import TOO_LARGE, around_the_pixels, busy_work
from picture_files import encoded
from PIL import Image

MAX_SECONDS = 0.1
MAX_GROWTH = 50 * 2**20

_DECODE = """
import pickle, resource, sys, time
from florence2_sam2.server.errors import InvalidRequest
from florence2_sam2.server.inputs.pictures import decode_picture
from florence2_sam2.server.settings import Settings

def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

small, files = pickle.load(sys.stdin.buffer)
settings = Settings()
decode_picture(small, settings)
costs = {}
for name, data in files.items():
    before, start = peak(), time.process_time()
    try:
        outcome = str(decode_picture(data, settings).shape)
    except InvalidRequest as error:
        outcome = error.message
    costs[name] = outcome, time.process_time() - start, peak() - before
sys.stdout.buffer.write(pickle.dumps(costs))
"""

Cost = tuple[str, float, int]


def costs(files: dict[str, bytes]) -> dict[str, Cost]:
    """(outcome, seconds of the processor, bytes by which the peak grew) of decoding each file in a fresh process."""
    small = encoded(Image.new("RGB", (8, 8)), "JPEG")
    done = subprocess.run(
        [sys.executable, "-c", _DECODE],
        input=pickle.dumps((small, files)),
        capture_output=True,
        check=True,
        timeout=120,
    )
    answers: dict[str, Cost] = pickle.loads(done.stdout)
    return answers


def assert_cheap(cost: Cost, words: str) -> None:
    outcome, seconds, growth = cost
    assert words in outcome
    assert seconds < MAX_SECONDS
    assert growth < MAX_GROWTH


@pytest.fixture(scope="module")
def too_large() -> dict[str, Cost]:
    return costs(TOO_LARGE)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_size_over_the_limit_is_refused_from_the_header(name: str, too_large: dict[str, Cost]) -> None:
    assert_cheap(too_large[name], "this server takes up to")


def test_what_surrounds_the_pixels_costs_nothing() -> None:
    for cost in costs(around_the_pixels()).values():
        assert_cheap(cost, "(8, 8, 3)")


def test_what_keeps_a_decoder_busy_is_refused() -> None:
    for word, cost in costs(busy_work()).items():
        assert_cheap(cost, word)
