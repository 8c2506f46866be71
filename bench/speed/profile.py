"""Where the time of a request goes: stage by stage from the server's own answers, and node by node inside a graph.

    scripts/profile [PICTURE …]                     the small checkpoints
    scripts/profile --full FOLDER                   full-size ones, from a folder of scripts/fullsize or scripts/bench
    scripts/profile --graph vision-encoder          and onnxruntime's time for each kind of node in that graph

Stages are medians over the requests, each about another picture or the same ones in turns, with nothing remembered.
Under the profile of a graph stand the kinds of nodes and the slowest nodes, of the graph as onnxruntime's optimizer
left it, with the threads that the server gives it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.arguments import positive
from bench.speed import prepare
from bench.speed.agreement import CAPTION, florence2
from bench.speed.bench import Bench
from bench.speed.components import Components, Node
from bench.speed.figures import Spread
from bench.speed.report import markdown
from bench.speed.worker import SERVERS_ENVIRONMENT, Worker
from florence2_sam2.client import Segmentation

# name → how the components' names begin (the caption's, where there are two)
GRAPHS = {
    "vision-encoder": "vision encoder",
    "text-encoder": "text encoder",
    "decoder": "decoder",
    "sam2-image-encoder": "SAM2 image encoder",
    "mask-decoder": "mask decoder",
}
FIRST = 90_000


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    subject = (
        prepare.full(options.full.resolve()) if options.full else prepare.small(options.model_repository)
    )
    bench = Bench(subject, Path())
    shown = [path.read_bytes() for path in options.pictures] or bench.pictures(options.requests, FIRST)
    print(f"{subject.title}\n")
    try:
        server = bench.server(memory_bytes=0)
        asked = itertools.cycle(shown)
        bench.segment(next(asked), num_beams=options.beams)
        answers = [bench.segment(next(asked), num_beams=options.beams) for _ in range(options.requests)]
        print(stages(answers))
        info = florence2(server.grpc_address, shown[0], CAPTION, beams=options.beams)["info"]
        print(f"\n{inside_florence2(info)}")
    finally:
        bench.close()
    if options.graph:
        with Worker(
            Components,
            subject.repository,
            shown[0],
            subject.tokens is not None,
            environment=SERVERS_ENVIRONMENT,
        ) as worker:
            names = [name for name, _ in worker.call("names")]
            for graph in options.graph:
                index = next(n for n, name in enumerate(names) if name.startswith(GRAPHS[graph]))
                seconds, nodes = worker.call("nodes", index, options.repeats)
                print(f"\n{names[index]}\n{kinds(nodes, seconds)}\n\n{slowest(nodes, options.top)}")
    return 0


def stages(answers: Sequence[tuple[float, Segmentation]]) -> str:
    """Median milliseconds of each stage, and of what lies outside of all of them."""
    whole = Spread.of([1e3 * seconds for seconds, _ in answers])
    rows = []
    for name in answers[0][1].timings_ms:
        rows.append((name, Spread.of([answer.timings_ms[name] for _, answer in answers])))
    outside = [1e3 * seconds - sum(answer.timings_ms.values()) for seconds, answer in answers]
    rows += [("outside: gRPC, Triton, JSON, the client", Spread.of(outside)), ("seen by the client", whole)]
    return markdown(
        ["stage", "ms", "quartiles", "share"],
        [
            [
                name,
                f"{spread.median:.1f}",
                f"{spread.low:.1f} to {spread.high:.1f}",
                f"{spread.median / whole.median:.1%}",
            ]
            for name, spread in rows
        ],
    )


def inside_florence2(info: dict) -> str:
    """What a caption takes inside `florence2`, behind the picture's features."""
    timings, steps = info["timings_ms"], info["steps"]
    return (
        f"inside florence2, one caption: waiting {timings['waiting']:.1f} ms, prompt {timings['encoding']:.1f} ms, "
        f"{steps} steps {timings['decoding']:.1f} ms, {timings['decoding'] / steps:.2f} ms a step"
    )


def kinds(nodes: Sequence[Node], seconds: float) -> str:
    """Time by kind of node, the longest first. `seconds`: of a run that nobody writes down."""
    spent: dict[str, list[float]] = defaultdict(list)
    for node in nodes:
        spent[node.kind].append(node.seconds)
    total = sum(map(sum, spent.values()))
    rows = [
        [kind, str(len(times)), f"{1e3 * sum(times):.2f}", f"{sum(times) / total:.1%}"]
        for kind, times in sorted(spent.items(), key=lambda item: -sum(item[1]))
    ]
    rows.append(["all nodes", str(len(nodes)), f"{1e3 * total:.2f}", "100.0%"])
    table = markdown(["kind of node", "nodes", "ms", "share"], rows)
    return f"{table}\nA run without the profile takes {1e3 * seconds:.2f} ms."


def slowest(nodes: Sequence[Node], count: int) -> str:
    """The nodes that take longest, by name."""
    chosen = sorted(nodes, key=lambda node: -node.seconds)[:count]
    return markdown(
        ["slowest nodes", "kind", "ms"],
        [[node.name, node.kind, f"{1e3 * node.seconds:.3f}"] for node in chosen],
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="default: drawn scenes")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--full", type=Path, metavar="FOLDER", help="folder of scripts/fullsize, filled if need be"
    )
    source.add_argument(
        "--model-repository",
        type=Path,
        metavar="FOLDER",
        help="what `export` wrote; default: the packaged one",
    )
    parser.add_argument("--requests", type=positive, default=10, metavar="N", help="default: %(default)s")
    parser.add_argument("--beams", type=positive, default=1, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--graph", nargs="+", choices=GRAPHS, default=[], metavar="GRAPH", help=f"of {', '.join(GRAPHS)}"
    )
    parser.add_argument(
        "--repeats", type=positive, default=5, metavar="N", help="runs of a graph (%(default)s)"
    )
    parser.add_argument(
        "--top", type=positive, default=15, metavar="N", help="slowest nodes shown (%(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
