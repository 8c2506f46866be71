"""`florence2-sam2 bulk INPUT OUTPUT`: very many pictures through running servers, on Ray; a stopped run goes on.

Exit code 0: all pictures were segmented; 1: some were not, or the run could not go on; 2: wrong usage, nothing was
sent.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from florence2_sam2.cli import call_settings
from florence2_sam2.cli.address import (
    DEFAULT_URL,
    URL_VARIABLE,
    add_credentials,
    credentials,
    default_url,
    require_usable,
)
from florence2_sam2.cli.progress import Progress

if TYPE_CHECKING:
    from florence2_sam2.bulk.begin import Options
    from florence2_sam2.bulk.run import State

SHOWN_ERRORS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "The same command again goes on with a run that was stopped. Exit code 0: all pictures were segmented,"
        " 1: some were not, 2: wrong usage."
    )
    parser.add_argument(
        "input",
        metavar="INPUT",
        help="folder, pattern or file of pictures, Parquet or WebDataset; fsspec URL or path",
    )
    parser.add_argument("output", metavar="OUTPUT", help="folder for the results; fsspec URL or path")

    read = parser.add_argument_group("what to read")
    read.add_argument(
        "--input",
        dest="kind",
        choices=("pictures", "parquet", "webdataset"),
        help="which of INPUT's files to read, where there are several kinds",
    )
    read.add_argument("--picture-column", metavar="NAME", help="of Parquet: bytes, or a path or URL")
    read.add_argument("--id-column", metavar="NAME", help="of Parquet: what a picture is known by")
    read.add_argument("--root", metavar="URL", help="the folder of Parquet's paths (default: INPUT's)")
    read.add_argument(
        "--max-image-bytes", type=int, metavar="N", help="larger pictures are not read (default: 32 MiB)"
    )

    asked = parser.add_argument_group("whom to ask")
    asked.add_argument(
        "--url",
        action="append",
        help=f"a server; may be repeated: calls go round (default: ${URL_VARIABLE}, else {DEFAULT_URL})",
    )
    asked.add_argument(
        "--workers", type=int, default=2, metavar="N", help="processes that ask (default: %(default)s)"
    )
    asked.add_argument(
        "--in-flight",
        type=int,
        default=8,
        metavar="N",
        help="most calls at once, of each worker (default: 8)",
    )
    asked.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="for a call (default: 120)"
    )
    asked.add_argument(
        "--patience",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long no server may answer before the run ends (default: 600)",
    )
    call_settings.add_fetching(asked, "workers fetch pictures' URLs, not the server")
    add_credentials(parser)
    asked.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a Ray cluster (default: one is started here, for this run)",
    )

    call_settings.add_looking(parser, boxes=False)
    call_settings.add_keeping(parser)

    out = parser.add_argument_group("what to write")
    out.add_argument("--form", choices=("parquet", "coco"), help="of the results (default: parquet)")
    out.add_argument(
        "--rle", action="store_true", help="exact run lengths of masks too, in Parquet; COCO has them"
    )
    out.add_argument(
        "--shard-size", type=int, metavar="N", help="pictures in a file of results (default: 1000)"
    )
    out.add_argument("--normalized", action="store_true", default=None, help="coordinates 0…1, in Parquet")
    out.add_argument("--merge", metavar="FILE", help="in the end one COCO document of all shards")


def run(arguments: argparse.Namespace) -> int:
    usage = _wrong_usage(arguments)
    if usage:
        return _complain(usage, 2)
    try:
        from florence2_sam2.bulk import coco
        from florence2_sam2.bulk.errors import BulkError, WrongUsage
        from florence2_sam2.bulk.folder import Folder
        from florence2_sam2.bulk.run import run as run_bulk
    except ImportError as error:
        return _not_installed(error)
    if importlib.util.find_spec("ray") is None:  # not imported yet: it reads its variables then
        return _not_installed(ModuleNotFoundError(name="ray"))
    options = _options(arguments)
    shown = _Shown()
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        state = run_bulk(options, shown.begin, shown.tick, _say)
        said = shown.end()
        if state.is_complete and arguments.merge:
            coco.merge(Folder(options.output), state.plan, _absolute(arguments.merge))
    except WrongUsage as error:
        return _complain(str(error), 2)
    except (BulkError, OSError) as error:
        shown.end()
        return _complain(str(error), 1)
    except (KeyboardInterrupt, SystemExit):  # Ray makes the latter of SIGTERM
        said = shown.end()
        return _complain(f"stopped: {said}; the same command goes on from here" if said else "stopped", 130)
    finally:
        signal.signal(signal.SIGTERM, before)
    _say(said)
    complaint = _wrong_with(state, options.output)
    return _complain(complaint, 1) if complaint else 0


class _Shown:
    """The progress line, once it is known how many pictures there are."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._before = (0, 0, 0)

    def begin(self, state: State) -> None:
        self._before = _totals(state)
        self._progress = Progress(state.plan.pictures, self._before[0])

    def tick(self, state: State) -> None:
        if self._progress is not None:
            now = _totals(state)
            self._progress.reach(*(one - before for one, before in zip(now, self._before, strict=True)))

    def end(self) -> str:
        """A sentence about the whole; empty: nothing has begun."""
        return "" if self._progress is None else self._progress.end()


def _totals(state: State) -> tuple[int, int, int]:
    return state.total("pictures"), state.total("failed"), state.total("objects")


def _wrong_with(state: State, output: str) -> str | None:
    """What is to be said of a run that has ended but is not all well."""
    if state.stopped is not None:
        return f"{state.stopped}; the same command goes on from here"
    if state.broken:
        listed = [f"{state.plan.file(number)}: {why}" for number, why in sorted(state.broken.items())]
        more = [f"and {len(listed) - SHOWN_ERRORS} more"] if len(listed) > SHOWN_ERRORS else []
        head = f"{len(listed)} of {state.plan.shards} shards could not be done; the same command tries them again:"
        return "\n  ".join([head, *listed[:SHOWN_ERRORS], *more])
    failed = state.total("failed")
    if failed:
        where = "rows with an `error`" if state.plan.question.form == "parquet" else "`failed`"
        return f"{failed} of {state.total('pictures')} pictures failed: {where} in {output} say why"
    return None


def _options(arguments: argparse.Namespace) -> Options:
    from florence2_sam2.bulk.begin import Options
    from florence2_sam2.client import UrlRules

    settings = call_settings.given(arguments)
    if arguments.rle:
        settings["formats"] = ("rle",)
    return Options(
        url=_absolute(arguments.input),
        output=_absolute(arguments.output),
        servers=tuple(arguments.url or [default_url()]),
        kind=arguments.kind,
        picture_column=arguments.picture_column,
        id_column=arguments.id_column,
        root=None if arguments.root is None else _absolute(arguments.root),
        max_bytes=arguments.max_image_bytes,
        form=arguments.form or ("coco" if arguments.merge else None),
        shard_size=arguments.shard_size,
        settings=settings,
        timeout=arguments.timeout,
        patience=arguments.patience,
        in_flight=arguments.in_flight,
        workers=arguments.workers,
        ray_address=arguments.ray_address,
        fetch_here=arguments.fetch_here,
        url_rules=arguments.url_allow or UrlRules(),
        credentials=credentials(arguments),
    )


def _absolute(url: str) -> str:
    """A path of this machine from its root on, for workers that are elsewhere; a URL as it is."""
    return url if "://" in url or "::" in url else os.path.abspath(url)


def _wrong_usage(arguments: argparse.Namespace) -> str | None:
    for name in ("workers", "in_flight", "shard_size", "max_image_bytes"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            return f"--{name.replace('_', '-')}: at least 1 is needed"
    for name in ("timeout", "patience"):
        if not getattr(arguments, name) > 0:
            return f"--{name}: more than 0 seconds are needed"
    if wrong := call_settings.wrong_fetching(arguments):
        return wrong
    if arguments.merge and arguments.form == "parquet":
        return "--merge: it goes with --form coco; Parquet's files are read together as they are"
    if arguments.normalized and (arguments.form == "coco" or arguments.merge):
        return "--normalized: COCO's coordinates are pixels"
    try:
        require_usable(arguments.url or [default_url()], credentials(arguments))
    except ValueError as error:
        return str(error)
    return None


def _stop(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _not_installed(error: ImportError) -> int:
    what = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else str(error)
    return _complain(f"{what}: pip install 'florence2-sam2[bulk]'", 1)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def _complain(message: str, code: int) -> int:
    _say(f"florence2-sam2 bulk: {message}")
    return code
