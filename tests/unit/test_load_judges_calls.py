"""`scripts/load`: from calls to figures, and what of them is judged."""

from __future__ import annotations

import itertools
import json
import math
import struct
from typing import Any

import pytest
from tritonclient.grpc import service_pb2 as pb

from bench.load import judge
from bench.load.judge import Point
from bench.load.wire import Sample


def answer(body: object = None, name: str = "result") -> bytes:
    """A serialised answer with the JSON `body`."""
    text = json.dumps({"image": {"width": 4, "height": 3}, "objects": []} if body is None else body).encode()
    message = pb.ModelInferResponse(model_name="segment")
    message.outputs.add(name=name, datatype="BYTES", shape=[1])
    message.raw_output_contents.append(struct.pack("<I", len(text)) + text)
    return message.SerializeToString()


ANSWER = answer()


def sample(number: int, due: float, seconds: float, code: str = "OK", **more: Any) -> Sample:
    more.setdefault("sent", due)
    more.setdefault("answer", ANSWER if code == "OK" else b"")
    return Sample(number, due, ended=due + seconds, code=code, **more)


@pytest.mark.parametrize(
    ("throughput", "knee", "kept"),
    [
        ({1: 10.0}, 1, 1.0),
        ({1: 4.0, 2: 7.0, 4: 7.2, 8: 7.1, 16: 6.9}, 2, 6.9 / 7.2),
        ({1: 4.0, 2: 6.0, 4: 8.0, 8: 10.0}, 8, 1.0),
        ({1: 4.0, 2: 8.0, 4: 10.0, 8: 7.0, 16: 9.0}, 4, 0.7),
        (
            {1: 9.5, 2: 10.0, 4: 8.0},
            1,
            0.8,
        ),  # what is lost before the best counts too, once the knee is passed
    ],
)
def test_the_knee_is_where_more_callers_give_no_more(
    throughput: dict[int, float], knee: int, kept: float
) -> None:
    assert judge.knee(throughput) == knee
    assert judge.kept_past_knee(throughput) == pytest.approx(kept)


def test_without_a_throughput_there_is_no_knee() -> None:
    for nothing in ({}, {1: 0.0}):
        with pytest.raises(ValueError, match="no throughput"):
            judge.knee(nothing)


def test_random_arrivals_have_the_rate_and_come_again_with_the_seed() -> None:
    moments = judge.poisson(20.0, 100.0, seed=3)
    assert moments == judge.poisson(20.0, 100.0, seed=3) != judge.poisson(20.0, 100.0, seed=4)
    assert moments == sorted(moments)
    assert moments[0] > 0
    assert moments[-1] < 100
    assert len(moments) == pytest.approx(2000, abs=5 * math.sqrt(2000))
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    # As random as arrivals that know nothing of each other: the gaps' deviation is their mean.
    mean = sum(gaps) / len(gaps)
    assert math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps)) == pytest.approx(mean, rel=0.15)


def test_a_closed_loops_throughput_leaves_its_ends_out() -> None:
    # Two callers, a second a call, ten calls each: two answers a second.
    calls = [sample(n, float(n // 2), 1.0) for n in range(20)]
    assert judge.throughput(calls) == pytest.approx(2.0)
    # A straggler at the end takes nothing from it.
    assert judge.throughput([*calls, sample(20, 10.0, 50.0)]) == pytest.approx(2.0)
    # Refused calls are no answers.
    refused = [sample(n, n / 10, 0.01, "UNAVAILABLE") for n in range(100)]
    assert judge.throughput([*calls, *refused]) < 2.2
    assert judge.throughput([sample(0, 0.0, 0.5)]) == pytest.approx(2.0)


def test_latencies_are_of_answered_calls_from_when_they_were_due() -> None:
    calls = [sample(n, 0.0, (n + 1) / 100) for n in range(100)]
    refused = [sample(n, 0.0, 60.0, "UNAVAILABLE") for n in range(50)]
    assert judge.latencies(calls + refused) == {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    assert sample(0, 1.0, 2.0, sent=1.5).seconds == 2.0, "a caller that is late makes its call no faster"
    assert math.isnan(judge.latencies(refused)["p95"])


def test_a_point_counts_what_comes_in_its_time() -> None:
    calls = [
        sample(0, 0.5, 0.2),  # before
        sample(1, 1.0, 0.5),
        sample(2, 1.5, 9.0),  # answered after it: served, but not in this time
        sample(3, 2.0, 0.1, "UNAVAILABLE"),
        sample(4, 2.5, 0.3, sent=2.52),
        sample(5, 2.6, 0.2, "INTERNAL", details="a bug"),
        sample(6, 3.0, 3.0, "UNAVAILABLE"),  # due after it
    ]
    point = Point.of(calls, 1.0, 3.0)
    assert (point.offered, point.answered, point.refused, point.faults) == (2.5, 1.0, 0.5, 1)
    assert (point.p50, point.p99) == (0.5, 9.0)
    assert point.slowest_refusal == pytest.approx(3.0), "a refusal counts whenever it comes"
    assert point.late == pytest.approx(0.02)
    assert Point(**point.as_json()) == point
    with pytest.raises(ValueError, match="no call was due"):
        Point.of(calls, 100.0, 101.0)


def test_goodput_is_held_against_the_best_of_all_loads() -> None:
    def point(offered: float, answered: float) -> Point:
        return Point(offered, answered, 0.0, 0, 0.1, 0.1, 0.1, 0.0, 0.0)

    assert judge.goodput_kept([point(4, 4), point(40, 6), point(10, 8)]) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="nothing was answered"):
        judge.goodput_kept([point(4, 0)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (sample(7, 0, 1, "INTERNAL", details="it broke"), "INTERNAL: it broke"),
        (sample(7, 0, 1, "DEADLINE_EXCEEDED"), "DEADLINE_EXCEEDED"),
        (sample(7, 0, 1, answer=b"\xff\xff"), "cannot be read"),
        (sample(7, 0, 1, answer=answer(name="other")), "no output result"),
        (sample(7, 0, 1, answer=answer({"image": {"width": 3}})), "cannot be read: KeyError"),
        (sample(7, 0, 1, answer=answer({"image": {"width": 3}, "objects": "none"})), "no answer in it"),
    ],
)
def test_what_is_neither_an_answer_nor_a_refusal_is_a_fault(wrong: Sample, said: str) -> None:
    (fault,) = judge.faults([sample(1, 0, 1), wrong], ["UNAVAILABLE"])
    assert fault.startswith("call 7: ")
    assert said in fault


def test_a_refusal_is_a_fault_where_none_is_allowed() -> None:
    calls = [sample(0, 0, 1), sample(1, 0, 0.25, "UNAVAILABLE", details="full")]
    assert judge.faults(calls, ["UNAVAILABLE"]) == []
    assert judge.faults(calls) == ["call 1: UNAVAILABLE: full"]
    assert judge.slowest_refusal(calls) == 0.25
    assert judge.slowest_refusal(calls[:1]) == 0.0
    assert judge.codes([*calls, calls[1]]) == {"UNAVAILABLE": 2, "OK": 1}
