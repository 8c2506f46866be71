"""Parts of the speed benches that need no server: workers, prepared repositories, memory, perf_analyzer's files."""

from __future__ import annotations

import base64
import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.speed import fixed_boxes, machine, memory, perf_analyzer, pictures, prepare
from bench.speed.agreement import Agreement, Differs, Expected
from bench.speed.bench import Bench, Choices
from bench.speed.direct import inputs_of
from bench.speed.pieces import eight_bit
from bench.speed.worker import Worker, WorkerFailed
from florence2_sam2.postprocess import CroppedMask
from florence2_sam2.postprocess.rle import encode_rle
from florence2_sam2.server import manifest

PIPES: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}


class Counter:
    """What a worker holds in these tests."""

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ValueError("below zero")
        self.value = start

    def add(self, number: int, times: int = 1) -> int:
        self.value += number * times
        return self.value

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)

    def leave(self) -> None:
        os._exit(3)


def test_a_worker_keeps_its_object_and_has_its_own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEED_TAKEN", "ours")
    with Worker(Counter, 5, environment={"SPEED_GIVEN": "theirs", "SPEED_TAKEN": None}) as worker:
        assert worker.call("add", 2) == 7
        assert worker.call("add", 2, times=3) == 13
        assert worker.call("variable", "SPEED_GIVEN") == "theirs"
        assert worker.call("variable", "SPEED_TAKEN") is None
        with pytest.raises(WorkerFailed, match="unsupported operand"):
            worker.call("add", None)
        assert worker.call("add", 0) == 13, "an error has ended it"
    assert (os.environ.get("SPEED_GIVEN"), os.environ["SPEED_TAKEN"]) == (None, "ours")


def test_a_worker_that_cannot_begin_or_has_ended_says_so() -> None:
    with pytest.raises(WorkerFailed, match="below zero"):
        Worker(Counter, -1)
    with Worker(Counter, 0) as worker:
        with pytest.raises(WorkerFailed, match=r"ended \(exit code 3\)"):
            worker.call("leave")
        with pytest.raises(WorkerFailed, match="ended"):
            worker.call("add", 1)


def test_a_prepared_repository_leaves_the_original_alone(tmp_path: Path) -> None:
    original = manifest.packaged_repository()
    before = {
        path: path.read_bytes() for path in original.rglob("*") if path.is_file() and path.suffix != ".pyc"
    }
    subject = prepare.forced(prepare.small(), 12, copy_to=tmp_path / "copy")
    spec = manifest.read_florence2(subject.repository)
    assert (spec.generation.min_new_tokens, spec.generation.max_new_tokens) == (12, 12)
    assert spec.generation.num_beams == manifest.read_florence2(original).generation.num_beams
    folder = subject.repository / "segment" / "1"
    assert (folder / "served.py").read_bytes() == before[original / "segment" / "1" / "model.py"]
    assert (folder / "fixed_boxes.py").read_bytes() == Path(fixed_boxes.__file__).read_bytes()
    assert "served" in (folder / "model.py").read_text()
    assert {path: path.read_bytes() for path in before} == before
    again = prepare.forced(prepare.small(), 13, copy_to=tmp_path / "copy")
    assert manifest.read_florence2(again.repository).generation.max_new_tokens == 13


def test_fixed_boxes_lie_in_the_picture_and_move_with_the_text() -> None:
    one, again, other = (fixed_boxes.boxes_for(text, 640, 480) for text in ("a", "a", "b"))
    assert one == again
    assert all(a != b for a, b in zip(one, other, strict=True))
    for x1, y1, x2, y2 in (*one, *other):
        assert 0 <= x1 < x2 <= 640
        assert 0 <= y1 < y2 <= 480
        assert (x2 - x1) * (y2 - y1) < 0.3 * 640 * 480, "over the area threshold"


def test_pictures_are_of_the_asked_size_and_each_another_one() -> None:
    files = [pictures.picture(number, 320, 240) for number in range(6)]
    assert len(set(files)) == 6
    assert pictures.decoded(files[0]).shape == (240, 320, 3)
    width, height = pictures.size_of(0.3)
    assert width * height == pytest.approx(0.3e6, rel=0.01)
    assert pictures.picture(1, 320, 240) == files[1]


def answered(bits: np.ndarray, score: float = 0.9, **changed: Any) -> Any:
    rle = encode_rle(CroppedMask.from_full(bits))
    item = {"label": "a cup", "box": (1.0, 2.0, 8.0, 9.0), "score": score, "rle": rle}
    filtered = [SimpleNamespace(label="a wall", reason="area")]
    return SimpleNamespace(
        caption="A cup.", objects=[SimpleNamespace(**{**item, **changed})], filtered=filtered
    )


def expected(bits: np.ndarray) -> Expected:
    return Expected(
        "A cup.",
        [0, 5, 2],
        [0, 6, 2],
        np.array([[1.0, 2.0, 8.0, 9.0]]),
        ["a cup"],
        np.array([0.9], np.float32),
        bits[None],
        [("a wall", "area")],
    )


def test_answers_that_agree_are_measured() -> None:
    bits = np.zeros((40, 50), bool)
    bits[5:35, 10:45] = True
    nearly = bits.copy()
    nearly[5, 10] = False
    agreement = Agreement()
    agreement.compare(answered(bits), expected(bits))
    agreement.compare(answered(nearly, 0.9001), expected(bits))
    assert (agreement.pictures, agreement.masks) == (2, 2)
    assert agreement.smallest_iou == pytest.approx(1 - 1 / 1050)
    assert agreement.score_error == pytest.approx(1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"label": "a mug"}, "labels"),
        ({"box": (1.0, 2.0, 8.0, 9.5)}, "boxes"),
        ({"score": 0.8}, "score"),
        ({"rle": encode_rle(CroppedMask(np.ones((40, 50), bool), 0, 0, 50, 40))}, "mask"),
    ],
)
def test_answers_that_differ_are_refused(changed: dict[str, Any], said: str) -> None:
    bits = np.zeros((40, 50), bool)
    bits[5:35, 10:45] = True
    with pytest.raises(Differs, match=said):
        Agreement().compare(answered(bits, **changed), expected(bits))
    with pytest.raises(Differs, match="caption"):
        Agreement().compare(answered(bits), replace(expected(bits), caption="Another."))
    with pytest.raises(Differs, match="left out"):
        Agreement().compare(answered(bits), replace(expected(bits), filtered=[]))


def test_settings_become_the_inputs_of_segment() -> None:
    inputs = inputs_of(
        b"file", {"caption": "a cup", "area_threshold": 0.5, "output_mask": True, "num_beams": 2}
    )
    assert inputs["image"] == b"file"
    assert inputs["caption"] == b"a cup"
    assert inputs["area_threshold"].tolist() == [0.5]
    assert inputs["area_threshold"].dtype == np.float32
    assert inputs["output_mask"].dtype == np.bool_
    assert json.loads(inputs["options"]) == {"num_beams": 2}
    assert inputs_of(b"file", {}) == {"image": b"file"}


def test_perf_analyzers_inputs_have_lengths_before_bytes(tmp_path: Path) -> None:
    path = tmp_path / "inputs.json"
    perf_analyzer.write_inputs(path, [{"image": b"\0ab\0", "area_threshold": np.array([0.5], np.float32)}])
    (request,) = json.loads(path.read_text())["data"]
    assert base64.b64decode(request["image"]["content"]["b64"]) == struct.pack("<I", 4) + b"\0ab\0"
    assert base64.b64decode(request["area_threshold"]["content"]["b64"]) == struct.pack("<f", 0.5)
    assert request["image"]["shape"] == [1]


SAID = """
  Composing models: 
  florence2, version: 1
      Request count: 0

  sam2_mask_decoder, version: 1
      Inference count: 12
      Execution count: 12
      Successful request count: 12
      Avg request latency: 114143 usec (overhead 4 usec + queue 530 usec + compute input 532 usec + compute infer 112869 usec + compute output 206 usec)

Inferences/Second vs. Client p95 Batch Latency
"""  # noqa: E501, W291 - as it prints


def test_perf_analyzers_words_are_read() -> None:
    text = "Concurrency,Inferences/Second,Client Send,p50 latency\n1,1.66,,574003\n2,1.9,14,600000\n"
    one, two = perf_analyzer.read_csv(text)
    assert one == {"Concurrency": 1.0, "Inferences/Second": 1.66, "p50 latency": 574003.0}
    assert two["Client Send"] == 14.0
    assert perf_analyzer.read_composing(SAID) == [
        perf_analyzer.Composing("sam2_mask_decoder", 12, 0.53, pytest.approx(113.607))
    ]
    assert perf_analyzer.read_composing("nothing of the kind") == []


def test_a_program_that_does_not_start_is_named(tmp_path: Path) -> None:
    placeholder = tmp_path / "perf_analyzer"
    placeholder.write_text("#!/bin/sh\necho this is a placeholder\n")
    placeholder.chmod(0o755)
    with pytest.raises(perf_analyzer.Unavailable, match="this is a placeholder"):
        perf_analyzer.find(tmp_path / "folder", placeholder)
    with pytest.raises(perf_analyzer.Unavailable, match="No such file"):
        perf_analyzer.find(tmp_path / "folder", tmp_path / "nowhere")


# This process's share of the pages of libraries grows when others that have them mapped end.
WITHOUT_OTHERS = """
import mmap, os, sys
from bench.speed import memory

prefix = f"speed_test_{os.getpid()}_"
path = memory.SHARED / f"{prefix}region"
size = 64 * 2**20
totals = [memory.taken([os.getpid()], prefix)]
try:
    with path.open("w+b") as file:
        os.ftruncate(file.fileno(), 4 * size)  # a hole of three quarters takes no memory
        file.write(os.urandom(size))
        file.flush()
        totals.append(memory.taken([os.getpid()], prefix))
        with mmap.mmap(file.fileno(), size) as mapped:
            assert sum(mapped[:: mmap.PAGESIZE]) >= 0  # every page is looked at
            totals.append(memory.taken([os.getpid()], prefix))
finally:
    path.unlink()
for taken in totals:
    print(taken.shm, taken.pss, taken.total)
"""


def test_memory_counts_each_page_of_shared_memory_once() -> None:
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_OTHERS], cwd=machine.ROOT, capture_output=True, text=True, check=True
    )
    before, unmapped, both = (
        memory.Taken(shm=float(shm), pss=float(pss), total=float(total))
        for shm, pss, total in map(str.split, told.stdout.splitlines())
    )
    assert before.shm == 0
    assert unmapped.shm == both.shm == pytest.approx(64, abs=0.1)
    assert both.pss - unmapped.pss > 48
    assert both.total - before.total == pytest.approx(64, abs=16)
    assert unmapped.total - before.total == pytest.approx(64, abs=16)


def test_a_peak_is_the_largest_total_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    totals = iter([3.0, 9.0, 5.0])
    monkeypatch.setattr(memory, "server_processes", list)
    monkeypatch.setattr(memory, "taken", lambda pids, prefix: memory.Taken(1, 1, next(totals, 2.0)))
    with memory.watched("prefix", every=0.001) as peak:
        while peak.looks < 4:
            time.sleep(0.001)
    assert peak.at_peak.total == 9.0


def test_own_work_is_not_taken_for_others() -> None:
    """Ours is this process's, that of children that run, and of those that have ended."""
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    before, start = machine.Watch._now(), time.process_time()
    while time.process_time() < start + 0.3:
        pass
    own = machine.Watch._now()
    assert own[2] - before[2] >= 0.2
    subprocess.run([sys.executable, "-c", burn], check=True)
    ended = machine.Watch._now()
    assert ended[2] - own[2] >= 0.25
    with subprocess.Popen([sys.executable, "-c", burn + "\nprint(flush=True)\ninput()"], **PIPES) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert machine.Watch._now()[2] - ended[2] >= 0.25
        child.communicate(b"\n")


def test_a_repository_without_the_8_bit_decoder_is_not_measured_as_one(tmp_path: Path) -> None:
    bench = Bench(prepare.small(), tmp_path, Choices(eight_bit=manifest.packaged_repository()))
    with pytest.raises(ValueError, match="has no 8-bit decoder: export it with --decoder-weights int8"):
        eight_bit.run(bench)
    result = eight_bit.run(Bench(prepare.small(), tmp_path))
    assert not result.rows
    assert "--eight-bit" in result.tables[0].note
