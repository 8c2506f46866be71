"""What `segment` does with its pictures: some at once, answers in order, files, and what failed."""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from florence2_sam2.cli import report, sources
from florence2_sam2.cli.html_report import write_report
from florence2_sam2.cli.progress import Progress
from florence2_sam2.cli.results_file import ResultsError, ResultsFile
from florence2_sam2.cli.segment_files import PictureFiles, file_for, prints_json, short
from florence2_sam2.cli.watching import StatusLine, segment_watched
from florence2_sam2.client import (
    CannotConnect,
    Done,
    InvalidRequest,
    ModelNotFound,
    Segmentation,
    Segmenter,
    SegmenterError,
    Settings,
)
from florence2_sam2.client.many import each


@dataclass
class Run:
    """What came of the pictures so far."""

    arguments: argparse.Namespace
    progress: Progress
    files: PictureFiles
    results: ResultsFile | None
    failures: list[tuple[str, str]] = field(default_factory=list)
    lines: dict[str, list[str]] = field(default_factory=dict)  # JSON file → its lines
    seen: set[str] = field(default_factory=set)
    no_server: SegmenterError | None = None

    def answered(self, picture: str, result: Segmentation) -> None:
        try:
            written = self.files.write(result, picture)
        except (OSError, ValueError) as error:
            self.failed(picture, error)
            return
        if self.results is not None:
            self.results.add(picture, result)
        line = json.dumps({"picture": picture, **result.raw}, ensure_ascii=False)
        if self.arguments.json not in (None, "-"):
            self.lines.setdefault(file_for(self.arguments.json, picture), []).append(line)
        if prints_json(self.arguments):
            self._print(line)
        elif self.results is None:
            self._print(report.describe(result, picture, written))
        self.seen.add(picture)
        self.progress.step(len(result.objects))

    def failed(self, picture: str, error: Exception) -> None:
        message = reason(error, picture)
        self.failures.append((picture, message))
        if prints_json(self.arguments):
            told = {"picture": picture, "error": message}
            if isinstance(error, SegmenterError) and error.request_id is not None:
                told["request_id"] = error.request_id
            self._print(json.dumps(told, ensure_ascii=False))
        self.progress.step(None)

    def _print(self, text: str) -> None:
        self.progress.above(lambda: print(text, flush=True))


def results_of(arguments: argparse.Namespace, settings: Settings, opened: ExitStack) -> ResultsFile | None:
    """The file that answers go to; a passing one where only a report is wanted.

    Raises:
        ResultsError, OSError: the file cannot be gone on with, or written.
    """
    if arguments.results is not None:
        return opened.enter_context(ResultsFile(arguments.results, settings, arguments.restart))
    if arguments.report is None:
        return None
    folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="florence2-sam2-"))
    return opened.enter_context(ResultsFile(Path(folder) / "answers.jsonl", settings))


def segment(
    arguments: argparse.Namespace,
    source: sources.Source,
    segmenter: Segmenter,
    settings: Settings,
    results: ResultsFile | None,
) -> tuple[str, int]:
    """Segment the pictures of `source`, some at once; what to complain about, and the command's exit code."""
    done = results.done if results is not None else set()
    before = sum(picture in done for picture in source.pictures) if isinstance(source.pictures, list) else 0
    state = Run(
        arguments,
        Progress(source.total, before, stream=io.StringIO() if source.total == 1 else None),
        PictureFiles(arguments.overlay, arguments.mask),
        results,
    )
    asked: set[str] = set()

    def left() -> Iterator[str]:
        for picture in source.pictures:
            if state.no_server is not None:
                return
            if results is None or (picture not in done and picture not in asked):
                asked.add(picture)
                yield picture

    with _written_at_the_end(state):
        try:
            for one in _answers(segmenter, left(), source.total, arguments.concurrency, settings):
                if one.result is not None:
                    state.answered(one.picture, one.result)
                elif isinstance(one.error, (CannotConnect, ModelNotFound)):
                    state.no_server = one.error
                elif one.error is not None:
                    state.failed(one.picture, one.error)
        except sources.SourceError as error:  # in a list that is read as it comes
            state.failures.append((sources.STDIN, str(error)))
        except ResultsError as error:
            state.progress.end()
            return f"--results: {error}", 2
        except KeyboardInterrupt:
            if results is None:
                raise
            return f"stopped: {state.progress.end()}; the same command goes on from here", 130
        said = state.progress.end()
        if results is not None:
            print(said, file=sys.stderr)
    return _finish(arguments, source, segmenter, state)


def _answers(
    segmenter: Segmenter, pictures: Iterable[str], total: int | None, concurrency: int, settings: Settings
) -> Iterator[Done[str, Segmentation]]:
    """In order; of a single picture with a line that tells what goes on, where somebody looks."""
    if total != 1 or not sys.stderr.isatty():
        return segmenter.segment_each(pictures, concurrency=concurrency, **settings)
    line = StatusLine()
    return each(lambda picture: segment_watched(segmenter, picture, line, **settings), pictures, 1)


def _finish(
    arguments: argparse.Namespace, source: sources.Source, segmenter: Segmenter, state: Run
) -> tuple[str, int]:
    """Make the files of the whole run, and say what failed."""
    results, failures = state.results, state.failures
    if results is not None and arguments.report is not None:
        try:
            write_report(arguments.report, results.answers(), failures, f"{len(results.done)} pictures")
        except OSError as error:
            failures.append((str(arguments.report), error.strerror or str(error)))
    if state.no_server is not None:
        message = no_server(state.no_server, str(segmenter.address))
        if results is not None:
            return f"{message}; the same command goes on from here", 1
        given = source.pictures if isinstance(source.pictures, list) else []
        seen = {picture for picture, _ in failures} | state.seen
        failures += [(picture, message) for picture in given if picture not in seen] or [
            (sources.STDIN, message)
        ]
    elif results is not None and arguments.results is not None and (results.done or not failures):
        results.finish(whole=not failures)
    if failures:
        return _summary(failures, source.total), 1
    return "", 0


@contextmanager
def _written_at_the_end(state: Run) -> Iterator[None]:
    """Write the JSON files, also when the loop is broken off: what has been answered is not lost."""
    try:
        yield
    finally:
        for file, content in state.lines.items():
            try:
                Path(file).write_text("\n".join(content) + "\n", encoding="utf-8")
            except OSError as error:
                state.failures.append((file, error.strerror or str(error)))


def _summary(failures: list[tuple[str, str]], pictures: int | None) -> str:
    """All failures, those with the same message in one line."""
    by_message: dict[str, list[str]] = {}
    for picture, message in failures:
        by_message.setdefault(message, []).append(short(picture))
    listed = [f"{', '.join(names)}: {message}" for message, names in by_message.items()]
    if pictures == 1:
        return listed[0]
    of_all = "" if pictures is None else f" of {pictures}"
    return "\n  ".join([f"{len(failures)}{of_all} pictures failed:", *listed])


def no_server(error: SegmenterError, address: str) -> str:
    if isinstance(error, ModelNotFound):
        return f"the Triton server at {address} does not serve the `segment` model ({error.message})"
    if "failed to connect" in error.message.lower():
        return f"no server answers at {address}; start one with `florence2-sam2 serve`, or say where it is with --url"
    return error.message


def reason(error: Exception, picture: str) -> str:
    """One line that says what to do about it."""
    if isinstance(error, InvalidRequest) and error.field and not error.field.startswith("image"):
        name = error.field.removeprefix("options.")
        flag = "--format" if name == "formats" else "--" + name.replace("_", "-")
        return f"{flag}{error.message.removeprefix(error.field)}"
    if isinstance(error, SegmenterError):
        return f"{error.message} ({error.code})" if error.code in ("INTERNAL", "UNKNOWN") else error.message
    if isinstance(error, FileNotFoundError) and error.filename == picture:
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename == picture else f"{error.filename}: {error.strerror}"
    return str(error)
