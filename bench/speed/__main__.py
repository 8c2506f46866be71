"""Measure the speed of a real server: side by side with transformers by hand, and against what the machine can do.

    scripts/bench                                  the small checkpoints, under 5 minutes on two quiet cores
    scripts/bench --full FOLDER                    Florence-2-base and SAM2.1-hiera-tiny, true configurations, seeded
                                                   weights; what is missing in FOLDER is built as scripts/fullsize does
    scripts/bench --only roofline start            these pieces alone (--list names them)

Every figure is a ratio against something measured in the same run, or a time or size with a target of its own. A piece
that fails is reported, and the others go on. Nothing else should run on the machine meanwhile: what did is recorded.

Exit status: 0 all targets met, 1 a target missed, 2 a piece failed (an answer that differs from the reference's too).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.speed import machine, plots, prepare, report
from bench.speed.bench import Bench, Choices
from bench.speed.recording import all_kept, kept, recorded
from bench.speed.results import Ran

# In the order in which they run. A module of `pieces` each.
PIECES = (
    *("side", "together", "eight-bit", "decoding", "roofline", "overhead", "again", "postprocess", "memory"),
    *("streaming", "start", "sweeps", "perf-analyzer"),
)
RESULTS = machine.ROOT / "bench" / "RESULTS.md"
PLOTS = machine.ROOT / "docs" / "pictures"
OUTPUT = Path("speed-output")
QUICK = "quick, to see that it works: no figure of it means anything"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.list:
        for name in PIECES:
            print(f"{name:14}{(_module(name).__doc__ or '').splitlines()[0]}")
        return 0
    try:
        subject = _subject(options)
    except Exception as error:  # building or exporting has failed: nothing can be measured
        print(f"bench: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    choices = Choices(options.quick, options.eight_bit, options.perf_analyzer, options.reference_threads)
    output = options.output / subject.name
    chosen = [name for name in PIECES if name in (options.only or PIECES)]
    bench = Bench(subject, output, choices)
    settings = {"subject": subject.name, "tokens": subject.tokens, "quick": options.quick}
    settings["repository"] = str(options.full or options.model_repository or "packaged")
    try:
        for name in chosen:
            if not (options.resume and _kept(output, name, settings)):
                run(bench, name, settings).write(output)
    finally:
        bench.close()
    pieces = all_kept(output, PIECES, settings)
    now = [ran for ran in pieces if ran.piece in chosen]
    print(report.terminal(f"{subject.title}{f' ({QUICK})' if options.quick else ''}", now))
    print(f"\nall values: {output}", file=sys.stderr)
    if not (options.no_results or options.quick or options.forced):
        write_results(options.results, subject, pieces)
    if any(ran.error for ran in now):
        return 2
    return int(any(row.met is False for ran in now for row in ran.result.rows))


def write_results(path: Path, subject: prepare.Subject, pieces: Sequence[Ran]) -> None:
    """Replace the subject's section by what was measured, once each piece has a result: part of a section is not to
    take the place of a whole one."""
    missing = [name for name in PIECES if name not in [ran.piece for ran in pieces]]
    if missing:
        print(f"{path} stays as it is: no result yet of {', '.join(missing)}", file=sys.stderr)
        return
    folder = PLOTS if path == RESULTS else path.parent / "pictures"
    drawn = plots.draw(subject.name, pieces, folder)
    places = [(caption, os.path.relpath(plot, path.parent)) for caption, plot in drawn]
    report.write_section(path, subject.name, report.section(subject.title, pieces, places))
    print(f"written into {path}", file=sys.stderr)


def run(bench: Bench, name: str, settings: dict[str, object]) -> Ran:
    """One piece, whatever happens in it."""
    return recorded(name, settings, lambda: _module(name).run(bench), bench.close)


def _module(name: str):
    return importlib.import_module(f"bench.speed.pieces.{name.replace('-', '_')}")


def _kept(output: Path, name: str, settings: dict[str, object]) -> Ran | None:
    """What an earlier run with the same settings measured, without failing. What could not be measured then is tried
    again."""
    ran = kept(output, name, settings)
    return ran if ran is not None and ran.result.rows and not ran.error else None


def _subject(options: argparse.Namespace) -> prepare.Subject:
    if options.full is not None:
        return prepare.full(options.full.resolve())
    subject = prepare.small(options.model_repository)
    if options.forced is None:
        return subject
    copy = options.output / "forced-repository"
    return prepare.forced(subject, options.forced, copy_to=copy.resolve())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the pieces and leave")
    parser.add_argument(
        "--only", nargs="+", choices=PIECES, metavar="PIECE", help="run these pieces (default: all)"
    )
    parser.add_argument(
        "--full",
        type=Path,
        metavar="FOLDER",
        help="full size; folder of scripts/fullsize, made or filled if need be",
    )
    parser.add_argument(
        "--model-repository", type=Path, metavar="FOLDER", help="another export of the small checkpoints"
    )
    parser.add_argument(
        "--eight-bit",
        type=Path,
        metavar="FOLDER",
        help="an export of the same checkpoints with --decoder-weights int8",
    )
    parser.add_argument(
        "--forced",
        type=int,
        metavar="N",
        help="small checkpoints as --full does it: N + N tokens, fixed boxes",
    )
    parser.add_argument(
        "--reference-threads",
        type=int,
        metavar="N",
        help="of the reference (default: one a core, on small checkpoints the faster of that and one)",
    )
    parser.add_argument("--quick", action="store_true", help="as few repeats as show that it works")
    parser.add_argument(
        "--resume", action="store_true", help="leave out pieces that have a result of the same settings"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="FOLDER",
        help="every value as JSON (default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=RESULTS,
        metavar="FILE",
        help="whose section is replaced (default: bench/RESULTS.md)",
    )
    parser.add_argument(
        "--no-results", action="store_true", help="only print; --quick and --forced never write"
    )
    parser.add_argument(
        "--perf-analyzer", type=Path, metavar="FILE", help="the program (default: found or installed)"
    )
    options = parser.parse_args(arguments)
    if options.full is not None and (options.model_repository or options.forced is not None):
        parser.error("--full goes neither with --model-repository nor with --forced")
    if options.forced is not None and options.forced < 2:
        parser.error("--forced: a text has two tokens at least")
    return options


if __name__ == "__main__":
    sys.exit(main())
