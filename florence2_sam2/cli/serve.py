"""`florence2-sam2 serve`: the embedded Triton server in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from florence2_sam2.cache.exporting import ExportFailed
from florence2_sam2.cache.fetched import fetch, is_url
from florence2_sam2.cache.obtain import Obtained, obtain
from florence2_sam2.cache.store import Cache, CacheError, default_folder
from florence2_sam2.cli import endpoints
from florence2_sam2.hub.errors import HubError
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.launch.log import LogReader, error_of
from florence2_sam2.server.launch.signals import StopRequested, stop_signals
from florence2_sam2.server.launch.supervisor import supervise
from florence2_sam2.server.launch.watch import Timing
from florence2_sam2.server.launch.wheel import TRITON_VERSION
from florence2_sam2.server.settings import Option, Settings, options

LOG_SECONDS = 0.25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    place = parser.add_argument_group("place")
    place.add_argument(
        "--repository",
        type=_repository,
        metavar="DIR",
        help="model repository that `export` wrote, or its URL in an object store, s3://bucket/folder (default: the"
        " packaged small models)",
    )
    endpoints.add_arguments(place)
    place.add_argument(
        "--log-file", type=_file, metavar="F", help="Triton's log (default: in a temporary folder)"
    )
    place.add_argument(
        "--ready-file",
        type=_file,
        metavar="F",
        help="JSON with the addresses, there while the server is ready",
    )
    place.add_argument("--verbose", action="store_true", help="show the whole of Triton's log")
    place.add_argument(
        "--skip-hashes", action="store_true", help="do not compare the model files with the manifests"
    )
    headings = {
        "checkpoints": "Both together, in place of --repository: exported on first use, then found in the cache.",
        "limits": "Each, and those above and below, is also an environment variable, FLORENCE2_SAM2_… in capitals.",
        "watch": "How the server is looked after: what has died or hangs is started again.",
        "telemetry": "What is told of each call.",
    }
    groups = {name: parser.add_argument_group(name, text) for name, text in headings.items()}
    for option in options():
        groups[option.group].add_argument(f"--{option.name.replace('_', '-')}", **_argument(option))


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM. 0 after a clean stop, 1 when the server cannot start or keeps dying."""
    try:
        with stop_signals():
            return _serve(arguments)
    except StopRequested:
        return 130  # while an export was under way, or a second signal while stopping
    except (StartError, HubError, ExportFailed, CacheError, ValueError) as error:
        print(f"florence2-sam2: error: {error}", file=sys.stderr, flush=True)
        return 1


def _serve(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    obtained = _obtain(arguments, settings)
    server = EmbeddedServer(
        obtained.entry.repository if obtained else arguments.repository,
        **endpoints.of(arguments),
        settings=settings,
        log=arguments.log_file,
        check_hashes=not (arguments.skip_hashes or obtained),  # of what is obtained they have been compared
    )
    if not obtained:
        _say(f"model repository {arguments.repository or 'with the packaged small models'}")
    for warning in endpoints.warnings(arguments):
        _say(f"warning: {warning}")
    began = time.monotonic()
    try:
        server.start()
        _say(f"starting Triton {TRITON_VERSION}, its log: {server.log_path}")
        with _log_shown(server, arguments.verbose):
            server.wait_ready()
            with _ready_file(server, arguments.ready_file):
                _say_ready(server, began, arguments.tls_cert is not None)
                supervise(
                    server,
                    Timing.of(settings),
                    on_failure=_say_failure,
                    on_ready=lambda: _say("ready again"),
                )
    except StopRequested:
        _say("stopping: finishing the requests in flight (again to stop at once)")
        server.stop()
        _say("stopped")
        return 0
    except BaseException:
        server.kill()
        raise


def _obtain(arguments: argparse.Namespace, settings: Settings) -> Obtained | None:
    """The export of the checkpoints that are named; None when a repository is to be served instead.

    Raises:
        StartError: only one of the two is named, or a repository as well.
    """
    named = [flag for flag in ("florence2", "sam2") if getattr(arguments, flag) is not None]
    if arguments.repository is not None:
        if named:
            raise StartError(
                f"--repository and --{named[0]} exclude each other: a repository holds both models"
            )
        if isinstance(arguments.repository, str):
            return fetch(arguments.repository, _cache(settings), _say, check_hashes=not arguments.skip_hashes)
        return None
    if settings.florence2 is None and settings.sam2 is None:
        return None
    if settings.florence2 is None or settings.sam2 is None:
        given, other = ("sam2", "florence2") if settings.florence2 is None else ("florence2", "sam2")
        raise StartError(f"--{given} is given without --{other}: a server needs both checkpoints")
    return obtain(
        settings.florence2,
        settings.sam2,
        settings.precision,
        settings.decoder_weights,
        _cache(settings),
        _say,
        check_hashes=not arguments.skip_hashes,
    )


def _cache(settings: Settings) -> Cache:
    return Cache(Path(settings.cache).expanduser() if settings.cache else default_folder())


def _say_failure(reason: str, pause: float) -> None:
    _say(f"{reason}; starting again" + (f" in {pause:g} s" if pause else ""))


def _say_ready(server: EmbeddedServer, began: float, tls: bool) -> None:
    _say(f"ready after {time.monotonic() - began:.1f} s")
    _say(f"  gRPC     {'grpcs://' if tls else ''}{server.grpc_address}")
    _say(f"  HTTP     http://{server.http_address}/v2/models/segment_http/generate")
    _say(f"  metrics  http://{server.metrics_address}/metrics")


@contextlib.contextmanager
def _log_shown(server: EmbeddedServer, everything: bool) -> Iterator[None]:
    """Within, new lines of Triton's log appear on the terminal: all, or the errors in readable form."""
    reader = LogReader(server.log_path)
    ended = threading.Event()

    def show() -> None:
        while not ended.wait(LOG_SECONDS):
            for line in reader.lines():
                text = line if everything else error_of(line)
                if text:
                    print(text if everything else f"florence2-sam2: {text}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextlib.contextmanager
def _ready_file(server: EmbeddedServer, path: Path | None) -> Iterator[None]:
    """Within, `path` holds the addresses as JSON."""
    if path is None:
        yield
        return
    body = {
        "grpc": server.grpc_address,
        "http": server.http_address,
        "metrics": server.metrics_address,
        "log": str(server.log_path),
        "pid": os.getpid(),
    }
    draft = path.with_name(path.name + ".part")
    draft.write_text(json.dumps(body) + "\n", encoding="utf-8")
    draft.replace(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _settings(arguments: argparse.Namespace) -> Settings:
    """What the flags say, else the environment, else the defaults."""
    values = {option.name: getattr(Settings.from_environment(), option.name) for option in options()}
    flags = {name: getattr(arguments, name) for name in values if getattr(arguments, name) is not None}
    return Settings(**{**values, **flags})


def _argument(option: Option) -> dict[str, Any]:
    if option.kind == "bool":
        return {
            "action": argparse.BooleanOptionalAction,
            "help": f"{option.help} ({option.default})",
            "default": None,
        }
    shown = ",".join(map(str, option.default)) if isinstance(option.default, tuple) else option.default
    return {
        "type": _parsed(option),
        "metavar": option.kind.upper(),
        "help": f"{option.help} ({'none' if shown in (None, '') else shown})",
    }


def _parsed(option: Option) -> Any:
    def parse(text: str) -> Any:
        try:
            return option.parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse


def _repository(text: str) -> Path | str:
    return text if is_url(text) else Path(text)


def _file(text: str) -> Path:
    path = Path(text)
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


def _say(text: str) -> None:
    print(f"florence2-sam2: {text}", file=sys.stderr, flush=True)
