"""The queueing model of a server (`bench/sizing`): against closed forms of the textbooks, and against a simulation that
knows nothing of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.sizing import simulate
from bench.sizing.curve import FORMS, SHARP, Curve, fit
from bench.sizing.model import Server

curves = st.builds(
    Curve,
    alone=st.floats(0.01, 10),
    gain=st.floats(1, 8),
    sharpness=st.sampled_from([1.0, 2.0, 4.0, SHARP]),
)
servers = st.builds(Server, curves, places=st.integers(1, 12), queue=st.integers(0, 40))
loads = st.floats(0.01, 3.0)  # of the capacity


# -- the curve


@given(curves, st.integers(1, 64))
def test_a_call_among_others_is_never_faster_and_all_together_never_slower(curve: Curve, calls: int) -> None:
    assert curve.seconds(1) == pytest.approx(curve.alone)
    assert curve.seconds(calls + 1) >= curve.seconds(calls) * (1 - 1e-12)
    assert curve.throughput(calls + 1) >= curve.throughput(calls) * (1 - 1e-12)
    assert curve.throughput(calls) <= curve.gain / curve.alone * (1 + 1e-12)


@given(st.floats(0.01, 1), st.floats(0.01, 0.2), st.floats(0.0, 0.05))
def test_with_sharpness_one_it_is_the_universal_scalability_law(
    alone: float, contention: float, loss: float
) -> None:
    curve = Curve(alone, 1 / contention, 1.0, loss)
    for calls in (1, 2, 5, 16):
        law = calls / (alone * (1 + contention * (calls - 1) + loss * calls * (calls - 1)))
        assert curve.throughput(calls) == pytest.approx(law)


@settings(max_examples=30)
@given(st.floats(0.01, 10), st.floats(1.1, 6), st.sampled_from([form for form in FORMS if form.gains]))
def test_a_fit_finds_the_curve_that_points_lie_on(alone: float, gain: float, form: object) -> None:
    assert isinstance(form, type(FORMS[0]))
    curve = Curve(alone, gain, form.sharpness, 0.01 if form.loses else 0.0)
    points = {calls: curve.throughput(calls) for calls in (1, 2, 4, 8)}
    found = fit(points, form)
    for calls, value in points.items():
        assert found.throughput(calls) == pytest.approx(value, rel=0.02)


@pytest.mark.parametrize("points", [{}, {1: 0.0}, {0: 2.0}])
def test_nothing_is_fitted_to_nothing(points: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="answers a second above 0"):
        fit(points, FORMS[0])


# -- closed forms


@given(st.floats(0.05, 2.5), st.integers(1, 12), st.integers(0, 30))
@example(1.0, 1, 5)
def test_without_gain_it_is_one_server_of_the_textbook(load: float, places: int, queue: int) -> None:
    """M/M/1/K: chances fall geometrically, however many calls share the server."""
    server = Server(Curve(0.25), places, queue)
    room = places + queue
    powers = np.array([load**inside for inside in range(room + 1)])
    assert server.chances(load / 0.25) == pytest.approx(powers / powers.sum(), abs=1e-12)


def test_with_endless_room_it_is_m_m_1() -> None:
    load = Server(Curve(0.25), 8, 5000).open(0.8 / 0.25)
    assert load.seconds == pytest.approx(0.25 / (1 - 0.8))
    assert load.busy == pytest.approx(0.8)
    assert load.refused == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("cores", [1, 2, 3, 8])
@pytest.mark.parametrize("load", [0.3, 0.7, 0.95])
def test_with_a_sharp_gain_it_is_m_m_c(cores: int, load: float) -> None:
    """Erlang's C formula: as many servers as the gain is, when nobody is refused."""
    work = load * cores
    tail = work**cores / math.factorial(cores) / (1 - load)
    waits = tail / (sum(work**k / math.factorial(k) for k in range(cores)) + tail)
    seconds = 0.5 + waits * 0.5 / (cores * (1 - load))
    assert Server(Curve(0.5, cores), 8, 4000).open(work / 0.5).seconds == pytest.approx(seconds, rel=1e-6)


def test_without_room_to_wait_it_is_erlangs_loss_formula() -> None:
    work, places = 5.0, 8
    terms = [work**k / math.factorial(k) for k in range(places + 1)]
    refused = Server(Curve(1.0, places), places, 0).open(work).refused
    assert refused == pytest.approx(terms[-1] / sum(terms))


@given(servers)
def test_without_load_a_call_takes_as_long_as_alone(server: Server) -> None:
    assert server.open(1e-6 * server.capacity).seconds == pytest.approx(server.curve.alone, rel=1e-3)


@given(servers, loads)
def test_all_calls_are_accounted_for(server: Server, load: float) -> None:
    """Little's law on the chances, and what comes is answered or refused."""
    rate = load * server.capacity
    found, chances = server.open(rate), server.chances(rate)
    assert found.answered + found.refused * rate == pytest.approx(rate)
    # What leaves is what the states give.
    leaving = sum(chance * server.throughput(inside) for inside, chance in enumerate(chances) if inside)
    assert found.answered == pytest.approx(leaving)
    assert found.inside == pytest.approx(found.answered * found.seconds)
    assert found.answered <= server.capacity * (1 + 1e-9)


@given(servers, loads, st.floats(1.01, 3.0))
def test_more_calls_never_make_a_server_faster(server: Server, load: float, more: float) -> None:
    low, high = (server.open(factor * load * server.capacity) for factor in (1.0, more))
    assert high.seconds >= low.seconds * (1 - 1e-9)
    assert high.answered >= low.answered * (1 - 1e-9)
    assert high.refused >= low.refused - 1e-12


def mean_value_analysis(server: Server, callers: int, pause: float) -> tuple[float, float]:
    """Answers a second and seconds, by the recursion over the number of callers (Reiser and Lavenberg, 1980)."""
    chances = np.array([1.0])
    answered = seconds = 0.0
    for count in range(1, callers + 1):
        rates = np.array([server.throughput(inside) for inside in range(1, count + 1)])
        seconds = float((np.arange(1, count + 1) / rates * chances).sum())
        answered = count / (pause + seconds)
        others = answered / rates * chances
        chances = np.concatenate([[1 - others.sum()], others])
    return answered, seconds


@settings(max_examples=50)
@given(servers, st.integers(1, 10), st.floats(0.2, 20))
def test_a_closed_loop_is_what_mean_value_analysis_gives(server: Server, callers: int, pauses: float) -> None:
    callers = min(callers, server.room)
    pause = pauses * server.curve.alone
    found = server.closed(callers, pause)
    answered, seconds = mean_value_analysis(server, callers, pause)
    assert found.answered == pytest.approx(answered, rel=1e-6)
    assert found.seconds == pytest.approx(seconds, rel=1e-6)


@given(servers, st.integers(1, 40))
def test_callers_who_do_not_pause_keep_the_server_as_full_as_they_are_many(
    server: Server, callers: int
) -> None:
    callers = min(callers, server.room)
    found = server.closed(callers)
    assert found.answered == server.throughput(callers)
    assert found.seconds * found.answered == pytest.approx(callers)
    assert server.closed(callers, 1e-9 * server.curve.alone).answered == pytest.approx(
        found.answered, rel=1e-4
    )


# -- the simulation


def by_hand(server: Server, moments: np.ndarray, works: np.ndarray) -> np.ndarray:
    """Seconds of each call: what is left of each one's work, moved on from event to event."""
    left: dict[int, float] = {}
    waiting: list[int] = []
    seconds = np.full(len(moments), math.nan)
    now, coming = 0.0, 0
    while left or coming < len(moments):
        each = server.curve.seconds(len(left)) if left else math.inf
        first = min(left, key=lambda number: left[number]) if left else -1
        ends = now + left[first] * each if left else math.inf
        comes = moments[coming] if coming < len(moments) else math.inf
        passed = (min(ends, comes) - now) / each
        left = {number: work - passed for number, work in left.items()}
        now = min(ends, comes)
        if ends <= comes:
            del left[first]
            seconds[first] = now - moments[first]
            if waiting:
                begins = waiting.pop(0)
                left[begins] = works[begins]
        else:
            if len(left) < server.places:
                left[coming] = works[coming]
            elif len(left) + len(waiting) < server.room:
                waiting.append(coming)
            coming += 1
    return seconds


@settings(max_examples=40, deadline=None)
@given(servers, loads, st.integers(0, 1000))
def test_each_call_ends_when_its_work_is_done(server: Server, load: float, seed: int) -> None:
    moments = simulate.arrivals(120, seed) / (load * server.capacity)
    works = simulate.works(120, 0.3, seed)
    found = simulate.open_loop(server, moments, works)
    expected = by_hand(server, moments, works)
    assert np.isnan(found).tolist() == np.isnan(expected).tolist()
    assert found == pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("gain", [1.0, 2.0, 5.0])
@pytest.mark.parametrize("load", [0.5, 0.8, 1.5])
def test_the_closed_form_is_what_happens(gain: float, load: float) -> None:
    """Exponential work, a queue of which some are refused: means and refusals within a few hundredths."""
    server = Server(Curve(0.2, gain, 2.0), 8, 12)
    rate, count = load * server.capacity, 60_000
    seconds = simulate.open_loop(server, simulate.arrivals(count, 1) / rate, simulate.works(count, 1.0, 1))
    expected = server.open(rate)
    assert np.nanmean(seconds) == pytest.approx(expected.seconds, rel=0.06)
    assert np.isnan(seconds).mean() == pytest.approx(expected.refused, abs=0.01)


@pytest.mark.parametrize("variation", [0.0, 0.25, 1.0, 4.0])
def test_while_nobody_waits_only_the_mean_of_the_work_counts(variation: float) -> None:
    """Processor sharing is insensitive to the distribution of work."""
    server = Server(Curve(0.2, 2.0), 200, 0)
    rate, count = 0.6 * server.capacity, 80_000
    seconds = simulate.open_loop(
        server, simulate.arrivals(count, 2) / rate, simulate.works(count, variation, 2)
    )
    assert np.nanmean(seconds) == pytest.approx(server.open(rate).seconds, rel=0.05)


@pytest.mark.parametrize("variation", [0.0, 0.05, 0.5, 1.0, 3.0])
def test_work_is_drawn_with_its_mean_and_variation(variation: float) -> None:
    works = simulate.works(100_000, variation, 3)
    assert works.min() > 0
    assert works.mean() == pytest.approx(1.0, rel=0.02)
    assert works.var() / works.mean() ** 2 == pytest.approx(variation, rel=0.1, abs=1e-12)
    assert (works == simulate.works(100_000, variation, 3)).all()


def test_the_simulation_has_littles_law() -> None:
    """Calls inside, counted second by second, are the rate times how long one stays."""
    server = Server(Curve(0.2, 2.0), 8, 32)
    moments = simulate.arrivals(20_000, 4) / (0.8 * server.capacity)
    ends = moments + simulate.open_loop(server, moments, simulate.works(20_000, 0.1, 4))
    ends = ends[~np.isnan(ends)]
    clock = np.linspace(0, moments[-1], 200_001)
    inside = np.searchsorted(np.sort(moments), clock, side="right") - np.searchsorted(
        np.sort(ends), clock, side="right"
    )
    stayed = (ends - moments).mean() * len(moments) / moments[-1]
    assert inside.mean() == pytest.approx(stayed, rel=0.01)


def test_a_closed_loop_gives_the_throughput_of_its_callers() -> None:
    server = Server(Curve(0.2, 3.0, 2.0), 8, 32)
    for callers in (1, 3, 8, 20):
        seconds = simulate.closed_loop(server, callers, simulate.works(5000, 0.1, 5))
        assert seconds.mean() == pytest.approx(server.closed(callers).seconds, rel=0.03)


def test_better_balancing_makes_calls_faster() -> None:
    server = Server(Curve(1.0, 2.0), 8, 32)
    moments, works = simulate.arrivals(40_000) / (0.7 * 4 * server.capacity), simulate.works(40_000, 0.05)
    by = {
        policy: np.nanquantile(simulate.open_loop(server, moments, works, 4, policy), 0.95)
        for policy in simulate.POLICIES
    }
    assert by["random"] > 1.1 * by["round robin"] > 1.1 * by["least connections"]
    alone = simulate.open_loop(server, moments, works, 1)
    assert np.isnan(alone).mean() > 0.5, "a single server cannot take four servers' load"
    with pytest.raises(ValueError, match="none of random, round robin, least connections"):
        simulate.open_loop(server, moments, works, 4, "fastest")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: Curve(0.0), "alone"),
        (lambda: Curve(1.0, 0.5), "gain"),
        (lambda: Curve(1.0, sharpness=0.5), "sharpness"),
        (lambda: Curve(1.0, loss=-1.0), "loss"),
        (lambda: Server(Curve(1.0), 0), "places"),
        (lambda: Server(Curve(1.0), 1, -1), "queue"),
        (lambda: Server(Curve(1.0)).open(0.0), "rate"),
        (lambda: Server(Curve(1.0)).closed(41), "callers"),
        (lambda: Server(Curve(1.0)).closed(1, -1.0), "pause"),
        (lambda: simulate.works(1, -0.1), "variation"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named(wrong: object, said: str) -> None:
    assert callable(wrong)
    with pytest.raises(ValueError, match=f"^{said}: .* is out of range"):
        wrong()
