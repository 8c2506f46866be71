"""How many servers a load needs.

    scripts/sizing --service-seconds 0.12 --parallel 2 --rate 20 --p95 0.5

    scripts/sizing model  [--load FOLDER] …                  the model beside what scripts/load and scripts/bench
    measured scripts/sizing scale                                     one and two real servers, a core each: two minutes
    scripts/sizing work   NAME FLORENCE2 SAM2                count the graphs of two exports into bench/sizing/work.json
    scripts/sizing docs                                      the tables of docs/deployment.md anew

The first form simulates a server and prints how many of them the rate needs, so that 95 of 100 calls are answered
within
--p95. Time a call on a server that does nothing else for --service-seconds; for --parallel divide the most answers
a second that it gives (scripts/load finds both) by one caller's.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.sizing.curve import SHARP, Curve
from bench.sizing.model import PLACES, QUEUE, Server
from bench.sizing.servers import VARIATION, OutOfReach, needed

COMMANDS = ("model", "scale", "work", "docs")
MOST_SERVERS = 100_000


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in COMMANDS:
        return {"model": _model, "scale": _scale, "work": _work, "docs": _docs}[given[0]](given[1:])
    return _servers(given)


# -- how many servers


def _servers(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/sizing", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--service-seconds", type=float, required=True, help="a call that has a server to itself, mean"
    )
    parser.add_argument("--rate", type=float, required=True, help="calls a second, of all servers together")
    parser.add_argument("--p95", type=float, required=True, help="seconds that 95 of 100 calls may take")
    parser.add_argument(
        "--parallel",
        type=float,
        default=1.0,
        help="answers a second of many calls at once, against one at a time (default: 1, nothing is gained)",
    )
    parser.add_argument(
        "--sharpness",
        type=float,
        default=SHARP,
        help="how calls slow each other: inf when the server is busy (default), 1 from the second on, as in a batch",
    )
    parser.add_argument(
        "--variation",
        type=float,
        default=VARIATION,
        help="square of deviation by mean of a call's time alone (default: %(default)s, much alike; 1: exponential)",
    )
    parser.add_argument(
        "--places", type=int, default=PLACES, help="max_in_flight of a server (default: %(default)s)"
    )
    parser.add_argument(
        "--queue", type=int, default=QUEUE, help="max_queue of a server (default: %(default)s)"
    )
    options = parser.parse_args(given)
    for name, least, open_ in (
        ("service_seconds", 0, True), ("rate", 0, True), ("p95", 0, True), ("parallel", 1, False),
        ("sharpness", 1, False), ("variation", 0, False), ("places", 1, False), ("queue", 0, False),
    ):  # fmt: skip
        value = getattr(options, name)
        fits = value > least if open_ else value >= least
        if not fits or (value == float("inf") and name != "sharpness"):
            bound = f"more than {least}" if open_ else f"at least {least}"
            parser.error(
                f"--{name.replace('_', '-')}: {value:g} is out of range, {bound} and finite is needed"
            )
    if options.parallel > options.places:
        parser.error(
            f"--parallel: {options.parallel:g} is out of range, it is at most --places, {options.places}"
        )
    curve = Curve(options.service_seconds, options.parallel, options.sharpness)
    server = Server(curve, options.places, options.queue)
    if options.rate / server.capacity > MOST_SERVERS:
        parser.error(
            f"--rate: {options.rate:g} calls a second need more than {MOST_SERVERS} servers; is it right?"
        )
    try:
        answer = needed(server, options.rate, options.p95, options.variation)
    except OutOfReach as error:
        print(f"scripts/sizing: error: --{error}", file=sys.stderr)
        return 2
    several = "" if answer.servers == 1 else "s"
    print(
        f"{answer.servers} server{several}, each used to {100 * answer.used:.0f} % of its capacity of"
        f" {server.capacity:.3g} calls/s: a call takes {answer.mean:.3g} s on average,"
        f" 95 of 100 at most {answer.p95:.3g} s"
    )
    print(f"One server keeps {options.p95:g} s up to {answer.highest:.3g} calls/s.")
    return 0


# -- the rest: what needs measurements, servers or exports


def _parser(command: str, what: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"scripts/sizing {command}", description=what)


def _model(given: Sequence[str]) -> int:
    from bench.sizing import check, measured, report, sanity
    from bench.speed import report as tables
    from bench.speed.recording import kept
    from bench.speed.results import Ran

    parser = _parser("model", "Fit the model to a part of what was measured, and hold it against the rest.")
    parser.add_argument(
        "--load", type=Path, default=Path("load-output/small"), help="values of scripts/load (%(default)s)"
    )
    parser.add_argument(
        "--speed", type=Path, help="values of scripts/bench, for more closed loops (default: none)"
    )
    parser.add_argument(
        "--full",
        type=Path,
        help="values of scripts/bench --full, for the formula of GPU estimates (default: none)",
    )
    parser.add_argument(
        "--output", type=Path, default=Path("sizing-output/small"), help="values of scale (%(default)s)"
    )
    parser.add_argument("--results", type=Path, default=report.RESULTS, help="whose section is replaced")
    parser.add_argument("--no-results", action="store_true", help="only print")
    options = parser.parse_args(given)
    began = time.monotonic()
    try:
        found = {"model": check.run(options.load, options.speed)}
        if options.full is not None:
            found["budget"] = sanity.run(options.full)
    except measured.NothingMeasured as error:
        print(f"scripts/sizing: error: --load {error}", file=sys.stderr)
        return 2
    except sanity.NoRoofline as error:
        print(f"scripts/sizing: error: --full {error}", file=sys.stderr)
        return 2
    seconds = round(time.monotonic() - began, 1)
    pieces = [
        Ran(piece, {"subject": source.settings.get("subject")}, source.machine, source.date, seconds, result)
        for piece, (result, source) in found.items()
    ]
    scaled = kept(options.output, "scale", _scale_settings(False))
    pieces += [] if scaled is None else [scaled]
    print(tables.terminal("The model beside what was measured", pieces))
    if not options.no_results:
        report.write_results(options.results, _title(), "small", pieces)
        print(f"written into {options.results}", file=sys.stderr)
    return int(any(ran.error for ran in pieces))


def _scale(given: Sequence[str]) -> int:
    from bench.sizing import scale
    from bench.speed import prepare, report
    from bench.speed.recording import recorded

    parser = _parser(
        "scale", "Answers a second of one and of two servers, a core each, and of one on both cores."
    )
    parser.add_argument(
        "--quick", action="store_true", help="to see that it works: no figure of it means anything"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("sizing-output/small"), help="every value as JSON (%(default)s)"
    )
    options = parser.parse_args(given)
    subject = prepare.small()
    ran = recorded(
        "scale", _scale_settings(options.quick), lambda: scale.run(subject, options.quick), lambda: None
    )
    ran.write(options.output)
    print(report.terminal("Servers added on one machine", [ran]))
    if ran.error:
        return 2
    return int(any(row.met is False for row in ran.result.rows))


def _scale_settings(quick: bool) -> dict[str, object]:
    return {"subject": "small", "quick": quick}


def _title() -> str:
    from bench.speed import prepare

    return prepare.small().title


def _work(given: Sequence[str]) -> int:
    from bench.sizing import budget, graphs

    parser = _parser("work", "Count a request's operations and bytes on full-size exports in float32.")
    parser.add_argument("name", help="as the tables call what is served")
    parser.add_argument("florence2", type=Path, help="an export of Florence-2, as of scripts/fullsize")
    parser.add_argument("sam2", type=Path, help="one of SAM2")
    parser.add_argument("--output", type=Path, default=budget.WORK, help="file to which it is added")
    options = parser.parse_args(given)
    body = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    body[options.name] = graphs.repository_work(options.florence2, options.sam2)
    options.output.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    return 0


def _docs(given: Sequence[str]) -> int:
    from bench.sizing import report

    _parser("docs", "Write the tables of docs/deployment.md anew.").parse_args(given)
    report.write_deployment()
    return 0


if __name__ == "__main__":
    sys.exit(main())
