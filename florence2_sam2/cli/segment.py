"""`florence2-sam2 segment PICTURE…`: ask a running server and show what it found.

Text on a terminal, JSON (one line a picture) into a pipe or a file. Exit code 0: all pictures were segmented;
1: some were not; 2: wrong usage, nothing was sent.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import cast

from florence2_sam2.cli import call_settings, sources
from florence2_sam2.cli.address import (
    DEFAULT_URL,
    URL_VARIABLE,
    add_credentials,
    credentials,
    default_url,
    require_usable,
)
from florence2_sam2.cli.results_file import ResultsError, form_of
from florence2_sam2.cli.segment_files import wrong_usage
from florence2_sam2.cli.segment_run import results_of, segment
from florence2_sam2.client import Segmenter, Settings
from florence2_sam2.client.many import CONCURRENCY


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "{name} in a FILE stands for the picture's name without its ending. Text on a terminal, JSON into a pipe."
        " Exit code 0: all pictures were segmented, 1: some were not, 2: wrong usage."
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help="file, folder, pattern, http(s):// or data: URL, .jsonl list of paths or URLs, or - for a list on stdin",
    )
    parser.add_argument(
        "--url",
        default=default_url(),
        help=f"the server (default: ${URL_VARIABLE}, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="per picture (default: 120)"
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        default=CONCURRENCY,
        metavar="N",
        help="pictures at once (default: %(default)s)",
    )
    call_settings.add_fetching(parser, "fetch pictures' URLs on this machine, not on the server's")

    add_credentials(parser)
    found = call_settings.add_looking(parser)
    found.add_argument("--priority", choices=("interactive", "bulk"), help="bulk lets interactive calls pass")
    call_settings.add_keeping(parser)

    out = parser.add_argument_group("what to write")
    out.add_argument("--json", nargs="?", const="-", metavar="FILE", help="JSON to FILE (.json), or printed")
    out.add_argument("--overlay", metavar="FILE", help="the picture with its objects drawn on it")
    out.add_argument(
        "--mask", nargs="?", const="-", metavar="FILE", help="one mask instead of polygons, as PNG in FILE"
    )
    out.add_argument(
        "--invert-mask",
        action="store_true",
        default=None,
        help="the background in place of the objects in --mask",
    )
    out.add_argument(
        "--format",
        dest="formats",
        action="append",
        metavar="FORM",
        help="add rle, coco, geojson … (repeatable)",
    )
    out.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        help="all answers in one file, .jsonl, .coco.json or .geojson; a run that was stopped goes on where it was",
    )
    out.add_argument("--restart", action="store_true", help="begin --results anew")
    out.add_argument(
        "--report", type=Path, metavar="FILE", help="a page (.html) with all pictures, to look through"
    )
    out.add_argument("--normalized", action="store_true", default=None, help="coordinates 0…1")


def run(arguments: argparse.Namespace) -> int:
    try:
        source = sources.expand(arguments.pictures, sys.stdin)
    except sources.SourceError as error:
        return _complain(str(error), code=2)
    usage = wrong_usage(arguments, source.pictures if isinstance(source.pictures, list) else [])
    if usage:
        return _complain(usage, code=2)
    try:
        shown = credentials(arguments)
        require_usable(arguments.url, shown)
    except ValueError as error:
        return _complain(str(error), code=2)
    segmenter = Segmenter(
        arguments.url,
        timeout=arguments.timeout,
        fetch="client" if arguments.fetch_here else "server",
        url_rules=arguments.url_allow,
        **shown,
    )
    settings = _settings(arguments)
    with segmenter, ExitStack() as opened:
        try:
            results = results_of(arguments, settings, opened)
        except (ResultsError, OSError) as error:
            return _complain(f"--results: {error}", code=2)
        complaint, code = segment(arguments, source, segmenter, settings, results)
    return _complain(complaint, code) if complaint else code


def _settings(arguments: argparse.Namespace) -> Settings:
    """The arguments that are settings of the call, without those that were not given."""
    given = call_settings.given(arguments)
    formats = dict.fromkeys(arguments.formats or ())  # what the client would add is not wanted in the output
    if arguments.results is not None and form_of(arguments.results) == "coco":
        formats["rle"] = None  # else its masks would be the simplified polygons'
    given["formats"] = tuple(formats)
    if arguments.mask:
        given["output_mask"] = True
    return cast(Settings, given)


def _complain(message: str, code: int) -> int:
    print(f"florence2-sam2 segment: {message}", file=sys.stderr)
    return code
