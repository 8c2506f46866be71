"""The settings of a call as flags: what to look for, and what to keep of it."""

from __future__ import annotations

import argparse
import json
from typing import Any

from florence2_sam2.client import Settings, UrlRules


def add_looking(parser: argparse.ArgumentParser, boxes: bool = True) -> argparse._ArgumentGroup:
    """Flags that say what to look for; `boxes`: the caller's own, which are one picture's, among them."""
    found = parser.add_argument_group("what to look for (default: whatever Florence-2's own caption names)")
    source = found.add_mutually_exclusive_group()
    source.add_argument("--caption", metavar="TEXT", help="ground this caption instead of an automatic one")
    source.add_argument("--phrases", type=_phrases, metavar="A,B", help="look for these nouns")
    if boxes:
        source.add_argument(
            "--boxes", type=_boxes, metavar="JSON", help="your own boxes, [[x1, y1, x2, y2], …] in pixels"
        )
    source.add_argument(
        "--task", choices=("caption_grounding", "detection"), help="detection: common objects"
    )
    found.add_argument(
        "--tiles", type=int, metavar="N", help="look again on N×N parts: for small things on large pictures"
    )
    found.add_argument("--num-beams", type=int, metavar="N", help="beams of Florence-2's search")
    found.add_argument("--max-new-tokens", type=int, metavar="N", help="limit on what Florence-2 writes")
    found.add_argument(
        "--reduced-decode",
        action="store_true",
        default=None,
        help="decode large JPEGs smaller: faster, a little other",
    )
    return found


def add_keeping(parser: argparse.ArgumentParser) -> None:
    """Flags that say what to keep."""
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


def given(arguments: argparse.Namespace) -> dict[str, Any]:
    """The arguments that are settings of the call, without those that were not given."""
    names = Settings.__annotations__.keys() & vars(arguments).keys()
    values = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def add_fetching(group: argparse._ActionsContainer, who: str) -> None:
    """Who fetches pictures' URLs."""
    group.add_argument("--fetch-here", action="store_true", help=who)
    group.add_argument(
        "--url-allow",
        type=_rules,
        metavar="HOST:PORT,…",
        help="with --fetch-here: hosts to fetch from although private or on another port",
    )


def wrong_fetching(arguments: argparse.Namespace) -> str | None:
    """What is wrong with these flags, for a user."""
    if arguments.url_allow is not None and not arguments.fetch_here:
        return "--url-allow: it goes with --fetch-here; what the server may fetch is its own setting"
    return None


def _rules(text: str) -> UrlRules:
    try:
        return UrlRules(allow=[pair.strip() for pair in text.split(",") if pair.strip()])
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("allow: ")) from None


def _boxes(text: str) -> list[list[float]]:
    try:
        boxes = json.loads(text)
        return [[float(x1), float(y1), float(x2), float(y2)] for x1, y1, x2, y2 in boxes]
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError("[[x1, y1, x2, y2], …] is wanted") from None


def _phrases(text: str) -> list[str]:
    phrases = [part.strip() for part in text.split(",") if part.strip()]
    if not phrases:
        raise argparse.ArgumentTypeError("at least one phrase is needed")
    return phrases
