"""`florence2-sam2 segment PICTURE…`: ask a running server and show what it found.

Text on a terminal, JSON (one line a picture) into a pipe or a file. Exit code 0: all pictures were segmented;
1: some were not; 2: wrong usage, nothing was sent.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from PIL import Image, UnidentifiedImageError

from florence2_sam2.cli import report
from florence2_sam2.client import (
    CannotConnect,
    InvalidRequest,
    ModelNotFound,
    Segmentation,
    Segmenter,
    SegmenterError,
    Settings,
)

URL_VARIABLE = "FLORENCE2_SAM2_URL"
DEFAULT_URL = "grpc://localhost:8001"
_REMOTE = ("http://", "https://", "data:")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "{name} in a FILE stands for the picture's name without its ending. Text on a terminal, JSON into a pipe."
        " Exit code 0: all pictures were segmented, 1: some were not, 2: wrong usage."
    )
    parser.add_argument("pictures", nargs="+", metavar="PICTURE", help="file, http(s):// URL or data: URL")
    parser.add_argument(
        "--url",
        default=os.environ.get(URL_VARIABLE, DEFAULT_URL),
        help=f"the server (default: ${URL_VARIABLE}, else {DEFAULT_URL})",
    )
    parser.add_argument(
        "--timeout", type=float, default=120.0, metavar="SECONDS", help="per picture (default: 120)"
    )

    found = parser.add_argument_group("what to look for (default: whatever Florence-2's own caption names)")
    source = found.add_mutually_exclusive_group()
    source.add_argument("--caption", metavar="TEXT", help="ground this caption instead of an automatic one")
    source.add_argument("--phrases", type=_phrases, metavar="A,B", help="look for these nouns")
    source.add_argument(
        "--task", choices=("caption_grounding", "detection"), help="detection: common objects"
    )
    found.add_argument("--num-beams", type=int, metavar="N", help="beams of Florence-2's search")
    found.add_argument("--max-new-tokens", type=int, metavar="N", help="limit on what Florence-2 writes")

    kept = parser.add_argument_group("what to keep (defaults are the server's)")
    kept.add_argument(
        "--area-threshold", type=float, metavar="0…1", help="drop boxes over this share of the picture"
    )
    kept.add_argument("--confidence-threshold", type=float, metavar="0…1", help="drop masks scored lower")
    kept.add_argument(
        "--nms-threshold", type=float, metavar="0…1", help="drop duplicates that overlap more (IoU)"
    )
    kept.add_argument("--nms", choices=("box", "mask", "containment"), help="what overlap means")
    kept.add_argument(
        "--polygon-precision", type=float, metavar="X", help="lower: finer outlines; 0: every pixel edge"
    )

    out = parser.add_argument_group("what to write")
    out.add_argument("--json", nargs="?", const="-", metavar="FILE", help="JSON to FILE (.json), or printed")
    out.add_argument("--overlay", metavar="FILE", help="the picture with its objects drawn on it")
    out.add_argument(
        "--mask", nargs="?", const="-", metavar="FILE", help="one mask instead of polygons, as PNG in FILE"
    )
    out.add_argument(
        "--format",
        dest="formats",
        action="append",
        metavar="FORM",
        help="add rle, coco, geojson … (repeatable)",
    )
    out.add_argument("--normalized", action="store_true", default=None, help="coordinates 0…1")


def run(arguments: argparse.Namespace) -> int:
    usage = _wrong_usage(arguments)
    if usage:
        return _complain(usage, code=2)
    try:
        segmenter = Segmenter(arguments.url, timeout=arguments.timeout)
    except ValueError as error:
        return _complain(f"--url: {error}", code=2)
    as_json = _prints_json(arguments)
    lines: dict[str, list[str]] = {}  # JSON file → its lines
    failures: list[tuple[str, str]] = []
    with segmenter, _written_at_the_end(lines, failures):
        for index, picture in enumerate(arguments.pictures):
            try:
                result = segmenter.segment(picture, **_settings(arguments))
                written = _write_pictures(result, picture, arguments)
            except (CannotConnect, ModelNotFound) as error:
                failures += [
                    (left, _no_server(error, str(segmenter.address))) for left in arguments.pictures[index:]
                ]
                break
            except (SegmenterError, OSError, ValueError) as error:
                message = _reason(error, picture)
                failures.append((picture, message))
                if as_json:
                    print(json.dumps({"picture": picture, "error": message}, ensure_ascii=False), flush=True)
                continue
            line = json.dumps({"picture": picture, **result.raw}, ensure_ascii=False)
            if arguments.json not in (None, "-"):
                lines.setdefault(_file_for(arguments.json, picture), []).append(line)
            if as_json:
                print(line, flush=True)
            else:
                print(report.describe(result, picture, written), flush=True)
    if failures:
        return _complain(_summary(failures, len(arguments.pictures)), code=1)
    return 0


@contextmanager
def _written_at_the_end(lines: dict[str, list[str]], failures: list[tuple[str, str]]) -> Iterator[None]:
    """Write the JSON files, also when the loop is broken off: what has been answered is not lost."""
    try:
        yield
    finally:
        for file, content in lines.items():
            try:
                Path(file).write_text("\n".join(content) + "\n", encoding="utf-8")
            except OSError as error:
                failures.append((file, error.strerror or str(error)))


def _prints_json(arguments: argparse.Namespace) -> bool:
    return arguments.json == "-" or (arguments.json is None and not sys.stdout.isatty())


def _settings(arguments: argparse.Namespace) -> Settings:
    """The arguments that are settings of the call, without those that were not given."""
    names = Settings.__annotations__.keys() & vars(arguments).keys()
    given: dict[str, Any] = {name: getattr(arguments, name) for name in names}
    given["formats"] = arguments.formats or ()  # what the client would add is not wanted in the output
    if arguments.mask:
        given["output_mask"] = True
    return cast(Settings, {name: value for name, value in given.items() if value is not None})


def _write_pictures(result: Segmentation, picture: str, arguments: argparse.Namespace) -> list[str]:
    """Write the overlay and the mask where asked for; returns the files written."""
    written = []
    if arguments.overlay:
        file = _file_for(arguments.overlay, picture)
        result.overlay().save(file)
        written.append(file)
    if arguments.mask not in (None, "-"):
        file = _file_for(arguments.mask, picture)
        if result.mask_png is None:
            raise ValueError("the server's answer has no mask")
        Path(file).write_bytes(result.mask_png)
        written.append(file)
    return written


def _wrong_usage(arguments: argparse.Namespace) -> str | None:
    """What is wrong with the combination of arguments, checked before anything is sent or written."""
    if not arguments.timeout > 0:
        return "--timeout: more than 0 seconds are needed"
    if arguments.mask == "-" and not _prints_json(arguments):
        return "--mask: say which FILE the mask goes into, or print it within the JSON with --json"
    inputs = {Path(picture).resolve() for picture in arguments.pictures if not picture.startswith(_REMOTE)}
    for option, endings in (("json", (".json", ".jsonl")), ("overlay", ()), ("mask", (".png",))):
        template = getattr(arguments, option)
        if template in (None, "-"):
            continue
        if endings and not template.lower().endswith(endings):
            # `--json a.jpg` most likely means the picture a.jpg: writing into it would destroy it.
            return f"--{option} {template}: FILE must end in {' or '.join(endings)}; pictures go before the options"
        files = [_file_for(template, picture) for picture in arguments.pictures]
        if option != "json" and len(set(files)) < len(files):
            hint = "two pictures have the same name" if "{name}" in template else "write {name} in FILE"
            return f"--{option} {template}: {len(files)} pictures need a file each: {hint}"
        taken = next((file for file in files if Path(file).resolve() in inputs), None)
        if taken:
            return f"--{option}: {taken} is one of the pictures and would be overwritten"
        missing = next((file for file in files if not Path(file).parent.is_dir()), None)
        if missing:
            return f"--{option}: there is no folder {Path(missing).parent}"
        if option == "mask":
            colour = next((file for file in files if _is_colour_picture(file)), None)
            if colour:
                return (
                    f"--mask: {colour} is a picture, not a mask, and would be overwritten; pictures go first"
                )
        if option == "overlay":
            if Path(template).suffix.lower() not in Image.registered_extensions():
                return f"--overlay {template}: FILE must end in a picture's ending, like .png or .jpg"
            urls = [picture for picture in arguments.pictures if picture.startswith(_REMOTE)]
            if urls:
                return (
                    f"--overlay: {_short(urls[0])} is fetched by the server only; download it to draw on it"
                )
    return None


def _is_colour_picture(file: str) -> bool:
    try:
        with Image.open(file) as image:
            return image.mode != "L"
    except (OSError, UnidentifiedImageError):
        return False


def _file_for(template: str, picture: str) -> str:
    """`template` with {name} filled in."""
    if picture.startswith("data:"):
        name = "picture"
    elif picture.startswith(_REMOTE):
        name = Path(urlsplit(picture).path).stem or "picture"
    else:
        name = Path(picture).stem
    return template.replace("{name}", name)


def _summary(failures: list[tuple[str, str]], pictures: int) -> str:
    """All failures, those with the same message in one line."""
    by_message: dict[str, list[str]] = {}
    for picture, message in failures:
        by_message.setdefault(message, []).append(_short(picture))
    listed = [f"{', '.join(names)}: {message}" for message, names in by_message.items()]
    if pictures == 1:
        return listed[0]
    return "\n  ".join([f"{len(failures)} of {pictures} pictures failed:", *listed])


def _no_server(error: SegmenterError, address: str) -> str:
    if isinstance(error, ModelNotFound):
        return f"the Triton server at {address} does not serve the `segment` model ({error.message})"
    if "failed to connect" in error.message.lower():
        return f"no server answers at {address}; start one with `florence2-sam2 serve`, or say where it is with --url"
    return error.message


def _reason(error: Exception, picture: str) -> str:
    """One line that says what to do about it."""
    if isinstance(error, InvalidRequest) and error.field and not error.field.startswith("image"):
        flag = "--" + error.field.removeprefix("options.").replace("_", "-")
        return f"{flag}{error.message.removeprefix(error.field)}"
    if isinstance(error, SegmenterError):
        return f"{error.message} ({error.code})" if error.code in ("INTERNAL", "UNKNOWN") else error.message
    if isinstance(error, FileNotFoundError) and error.filename == picture:
        return "there is no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.filename == picture else f"{error.filename}: {error.strerror}"
    return str(error)


def _complain(message: str, code: int) -> int:
    print(f"florence2-sam2 segment: {message}", file=sys.stderr)
    return code


def _phrases(text: str) -> list[str]:
    phrases = [part.strip() for part in text.split(",") if part.strip()]
    if not phrases:
        raise argparse.ArgumentTypeError("at least one phrase is needed")
    return phrases


def _short(picture: str) -> str:
    """A name for messages: data URLs are cut, they may have megabytes."""
    return picture[:40] + "…" if picture.startswith("data:") else picture
