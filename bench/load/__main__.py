"""Load a real server: more and more callers, more calls than it can answer, bursts, priorities, slow URLs.

    scripts/load                       the small checkpoints, about a quarter of an hour on two quiet cores
    scripts/load --only rates          these parts alone (--list names them)
    scripts/load --url localhost:8001  a server that runs already; give it --memory-bytes 0. What needs a server of the
                                       script's own is left out

Concurrency is measured with NVIDIA's perf_analyzer, which is installed into the output folder where none is found. It
ends at the first refusal, so overload comes from an open loop of the project's own. Nothing else should run on the
machine meanwhile: what did is recorded.

Exit status: 0 all bounds kept, 1 one missed, 2 a part failed.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.load import options as common
from bench.load import report as own
from bench.load.job import Job, Running
from bench.speed import prepare, report
from bench.speed.bench import Bench, Choices
from bench.speed.recording import all_kept, recorded

# In the order in which they run: the first one finds the capacity that the second one starts from.
PARTS = ("concurrency", "rates", "overload", "priorities", "slow-urls")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.list:
        for name in PARTS:
            print(f"{name:12}{(_part(name).__doc__ or '').splitlines()[0]}")
        return 0
    small = options.full is None
    subject = prepare.small(options.model_repository) if small else prepare.full(options.full.resolve())
    output = options.output / subject.name
    running = None if options.url is None else Running(options.url, _headers(options.admin_key))
    bench = Bench(subject, output, Choices(options.quick, perf_analyzer=options.perf_analyzer))
    with_tool = options.perf_analyzer is not None or not (options.no_perf_analyzer or options.quick)
    chosen = [name for name in PARTS if name in (options.only or PARTS)]
    settings = {"subject": subject.name, "quick": options.quick, "url": options.url}
    settings["repository"] = str(options.full or options.model_repository or "packaged")
    job = Job(bench, running, with_tool)
    try:
        for name in chosen:
            recorded(name, settings, functools.partial(_part(name).run, job), job.close).write(output)
    finally:
        job.close()
    parts = all_kept(output, PARTS, settings)
    now = [ran for ran in parts if ran.piece in chosen]
    print(report.terminal(f"{subject.title}{f' ({common.QUICK})' if options.quick else ''}", now))
    print(f"\nall values: {output}", file=sys.stderr)
    if not (options.no_results or options.quick or options.url):
        missing = [name for name in PARTS if name not in [ran.piece for ran in parts]]
        if missing:
            print(f"{options.results} stays as it is: no result yet of {', '.join(missing)}", file=sys.stderr)
        else:
            own.write("load", options.results, subject, parts)
    if any(ran.error for ran in now):
        return 2
    return int(any(row.met is False for ran in now for row in ran.result.rows))


def _part(name: str) -> Any:
    return importlib.import_module(f"bench.load.parts.{name.replace('-', '_')}")


def _headers(admin_key: str | None) -> dict[str, str]:
    name, _, value = (admin_key or "").partition("=")
    return {name: value} if value else {}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/load", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the parts and leave")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, metavar="PART", help="run these parts (default: all)"
    )
    common.add(parser, "load-output")
    parser.add_argument(
        "--full",
        type=Path,
        metavar="FOLDER",
        help="full size; folder of scripts/fullsize, made or filled if need be",
    )
    parser.add_argument("--url", metavar="HOST:PORT", help="gRPC address of a running server; never written")
    parser.add_argument(
        "--admin-key",
        metavar="HEADER=KEY",
        help="what opens the running server's model configuration, which perf_analyzer reads",
    )
    parser.add_argument(
        "--perf-analyzer",
        type=Path,
        metavar="FILE",
        help="the program (default: found or installed; none with --quick)",
    )
    parser.add_argument(
        "--no-perf-analyzer", action="store_true", help="a closed loop of our own in its place"
    )
    options = parser.parse_args(arguments)
    if options.full is not None and options.model_repository is not None:
        parser.error("--full and --model-repository exclude each other")
    if options.url is not None and (options.full is not None or options.model_repository is not None):
        parser.error(
            "--url: what is served there is decided already; leave out --full and --model-repository"
        )
    return options


if __name__ == "__main__":
    sys.exit(main())
