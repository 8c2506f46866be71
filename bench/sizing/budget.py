"""Time and memory of a request on hardware that is known by its data sheet: estimates, from the work of `work.json`.

    time of a graph   Σ over kinds of node of max(operations / (a · peak), bytes / (m · bandwidth)) + nodes · launch
    one request       Σ graphs, each as often as it runs, + tokens · step + bytes over the bus / (b · bus) + host
    throughput        1 / (encoders and masks + Σ tokens · (time of a step of B sequences + step) / B)
    memory            weights + inner values of encoders for a batch, of the others once + caches of B sequences +
    contexts

Bytes of float16 are half of float32's; caches and what models hand each other stay float32, as in an export with fp16.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.sizing.gpus import GIGA, Gpu

WORK = Path(__file__).with_name("work.json")
ROWS = 16  # decoder_rows
PICTURES = 8  # max_batch_size of the encoders
ENCODERS = ("vision encoder", "SAM2 image encoder")
DECODERS = ("decoder, caption", "decoder, grounding")


@dataclass(frozen=True)
class Assumed:
    """Assumptions, none of them measured on a GPU. `arithmetic`, `memory`, `bus`: the share of the peak that is
    reached;
    `launch`: seconds that starting a node's kernel takes at least; `step`: seconds of the host for each token (search,
    arrays); `host`: seconds of a request on the host (picture, filters, masks at full size, transport), on cores of
    its own;
    `contexts`: bytes of two processes' CUDA contexts and libraries, and of the convolutions' working memory."""

    arithmetic: float = 0.4
    memory: float = 0.6
    bus: float = 0.4
    launch: float = 6e-6
    step: float = 3e-4
    host: float = 0.05
    contexts: float = 2.0 * GIGA


ASSUMED = Assumed()


@dataclass(frozen=True)
class Machine:
    """Peaks: operations and bytes a second, bytes a second from the host (None: there is no way to go); bytes of
    memory; bytes of a number, as a share of float32's."""

    flops: float
    bandwidth: float
    bus: float | None = None
    memory: float = float("inf")
    scale: float = 1.0

    @classmethod
    def of(cls, gpu: Gpu, precision: str) -> Machine:
        """`precision`: fp16 or fp32."""
        half = precision == "fp16"
        return cls(gpu.half if half else gpu.single, gpu.bandwidth, gpu.bus, gpu.memory, 0.5 if half else 1.0)


@dataclass(frozen=True)
class Budget:
    """Seconds of one request, and requests a second at most with ROWS sequences decoding together: `as_is` with the
    decoder's caches in the host's memory, and with the caches on the GPU, where the code has them. Bytes of memory,
    and the sequences that it would hold with caches there."""

    seconds_as_is: float
    rate_as_is: float
    seconds: float
    rate: float
    memory: float
    sequences: int


@cache
def works() -> dict[str, Any]:
    """Work of a request by what is served, as `graphs.repository_work` counts it."""
    body: dict[str, Any] = json.loads(WORK.read_text(encoding="utf-8"))
    return body


def graph_seconds(
    component: Mapping[str, Any], machine: Machine, assumed: Assumed = ASSUMED, sequences: int = 1
) -> float:
    """Of one run. With `sequences` the weights are read once for all of them, everything else for each."""
    products = sum(moved for _, flops, moved in component["kinds"].values() if flops)
    weights = min(component["weights"] / products, 1.0) if products else 0.0
    seconds = 0.0
    for nodes, flops, moved in component["kinds"].values():
        shared = moved * weights if flops else 0.0
        read = (shared + sequences * (moved - shared)) * machine.scale
        by_arithmetic = sequences * flops / (assumed.arithmetic * machine.flops)
        seconds += max(by_arithmetic, read / (assumed.memory * machine.bandwidth)) + nodes * assumed.launch
    return seconds


def budget(work: Mapping[str, Any], machine: Machine, assumed: Assumed = ASSUMED, rows: int = ROWS) -> Budget:
    """Of a greedy request."""
    once, together, tokens, crossed, steps_crossed = 0.0, 0.0, 0, 0.0, 0.0
    alone = 0.0
    for component in work["components"]:
        runs = component["runs"]
        if component["name"] in DECODERS:
            alone += runs * graph_seconds(component, machine, assumed)
            together += runs * graph_seconds(component, machine, assumed, rows) / rows
            tokens += runs
            steps_crossed += runs * component["inputs"]
        else:
            once += runs * graph_seconds(component, machine, assumed)
            crossed += runs * component["inputs"]
    bus = 0.0 if machine.bus is None else 1.0 / (assumed.bus * machine.bus)
    one = once + alone + tokens * assumed.step + crossed * bus + assumed.host
    each = once + together + tokens * assumed.step / rows + crossed * bus
    held = memory(work, machine, assumed)
    cache_bytes = _cache_bytes(work)
    room = machine.memory - held
    sequences = int(room // cache_bytes) if 0 <= room < float("inf") else 0
    return Budget(
        one + steps_crossed * bus,
        1.0 / (each + steps_crossed * bus),
        one,
        1.0 / each,
        held + rows * cache_bytes,
        sequences,
    )


def memory(work: Mapping[str, Any], machine: Machine, assumed: Assumed = ASSUMED) -> float:
    """Bytes without any sequence's caches."""
    graphs: dict[str, tuple[float, float]] = {}
    for component in work["components"]:
        graph = component["name"].split(",")[0]  # one graph serves both texts
        pictures = PICTURES if component["name"] in ENCODERS else 1
        weights, alive = graphs.get(graph, (0.0, 0.0))
        graphs[graph] = max(weights, component["weights"]), max(alive, pictures * component["alive"])
    return assumed.contexts + machine.scale * sum(weights + alive for weights, alive in graphs.values())


def _cache_bytes(work: Mapping[str, Any]) -> float:
    """Of one sequence at the end of its longer text, float32, and its logits."""
    positions: float = max(work["positions"].values()) + work["tokens"]
    return positions * work["position_bytes"] + 4.0 * work["vocabulary"]
