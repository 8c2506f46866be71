"""What the command lines of scripts that load servers have in common."""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.load.report import RESULTS

QUICK = "quick, to see that it works: no figure of it means anything"


def add(parser: argparse.ArgumentParser, output: str) -> None:
    parser.add_argument(
        "--model-repository",
        type=Path,
        metavar="FOLDER",
        help="an export to serve (default: the packaged one of the small checkpoints)",
    )
    add_output(parser, output)


def add_output(parser: argparse.ArgumentParser, output: str) -> None:
    """How much is measured, and where it is written."""
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
