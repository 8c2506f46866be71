"""A session's memory: the second run of a model takes no more than the first one."""

import json
import subprocess
import sys

from florence2_sam2.server.launch.embedded import packaged_repository

SCRIPT = """
import json, sys
from pathlib import Path
import numpy as np
from florence2_sam2.server.onnx_session import open_session

def resident():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:")) / 1024

session = open_session(Path(sys.argv[1]), intra_op_threads=1)
shape = [1, *session.get_inputs()[0].shape[1:]]
pixels, seen = np.zeros(shape, np.uint8), []
before = resident()
for _ in range(3):
    session.run(None, {"pixels": pixels})
    seen.append(resident() - before)
print(json.dumps(seen))
"""


def megabytes_after_each_run() -> list[float]:
    model = packaged_repository() / "florence2_vision_encoder" / "1" / "model.onnx"
    command = [sys.executable, "-c", SCRIPT, str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    values: list[float] = json.loads(done.stdout)
    return values


def test_the_second_run_takes_no_more_than_the_first() -> None:
    first, *_, last = megabytes_after_each_run()
    assert first > 10  # an encoder's inner values are what is measured
    assert last < 1.1 * first
