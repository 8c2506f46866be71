"""Entry point: each subcommand a module, imported when called, so that `segment` needs the client's packages only."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from florence2_sam2 import __version__

# command → (one line of help, module with `add_arguments(parser)` and `run(arguments) -> int`)
COMMANDS = {
    "segment": ("segment pictures with a running server", "florence2_sam2.cli.segment"),
    "bulk": ("segment millions of pictures, on Ray", "florence2_sam2.cli.bulk"),
    "playground": ("show a page to try a running server on", "florence2_sam2.cli.playground"),
    "health": ("ask a running server whether it works", "florence2_sam2.cli.health"),
    "serve": ("start the embedded Triton server", "florence2_sam2.cli.serve"),
    "export": ("write a model repository from Florence-2 and SAM2 checkpoints", "florence2_sam2.cli.export"),
    "cache": ("list or remove the exports that serve keeps", "florence2_sam2.cli.cache"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (0 success, 1 failure, 2 wrong usage)."""
    parsed = parse(sys.argv[1:] if argv is None else argv)
    try:
        return int(parsed.run(parsed))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output, `head` for instance, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains at its exit
        return 128 + signal.SIGPIPE


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments of one command, `run` among them; exits with 2 and a usage message where they are wrong."""
    arguments = list(argv)
    parser = argparse.ArgumentParser(
        prog="florence2-sam2", description="Open-vocabulary segmentation: Florence-2 and SAM2 on Triton."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in arguments if not word.startswith("-")), None)
    for name, (line, module) in COMMANDS.items():
        sub = commands.add_parser(name, help=line, description=line[0].upper() + line[1:] + ".")
        if name == chosen:
            command = importlib.import_module(module)
            command.add_arguments(sub)
            sub.set_defaults(run=command.run)
    return parser.parse_args(arguments)
