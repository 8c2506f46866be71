"""What the command lines of both scripts have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.load.report import RESULTS
from bench.speed import prepare

QUICK = "quick, to see that it works: no figure of it means anything"


def add(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument(
        "--full",
        type=Path,
        metavar="FOLDER",
        help="full size; folder of scripts/fullsize, made or filled if need be (default: the small checkpoints)",
    )
    parser.add_argument(
        "--model-repository", type=Path, metavar="FOLDER", help="another export of the small checkpoints"
    )
    parser.add_argument(
        "--quick", action="store_true", help="as little as shows that it works; never written"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(output),
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
    parser.add_argument("--no-results", action="store_true", help="only print")


def subject(options: argparse.Namespace) -> prepare.Subject:
    """What is served."""
    if options.full is not None:
        return prepare.full(options.full.resolve())
    return prepare.small(options.model_repository)


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.full is not None and options.model_repository is not None:
        parser.error("--full and --model-repository exclude each other")
