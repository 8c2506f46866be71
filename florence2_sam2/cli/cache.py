"""`florence2-sam2 cache`: what `serve --florence2 … --sam2 …` has exported, and room for more."""

from __future__ import annotations

import argparse
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from florence2_sam2.cache.recipe import code_hash
from florence2_sam2.cache.store import Cache, CacheError, Entry, default_folder
from florence2_sam2.hub.progress import megabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Downloads from the hub lie in the hub library's cache: `hf cache` manages those."
    parser.add_argument(
        "action", nargs="?", choices=("list", "remove"), default="list", help="(default: %(default)s)"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="exports to remove, as `list` names them")
    parser.add_argument("--all", action="store_true", help="remove all of them")
    parser.add_argument(
        "--cache", type=Path, default=default_folder(), metavar="DIR", help="(default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    cache = Cache(arguments.cache.expanduser())
    entries = {entry.name: entry for entry in cache.entries()}
    if arguments.action == "list":
        return _list(cache, list(entries.values()))
    unknown = [name for name in arguments.names if name not in entries]
    if unknown:
        return _fail(f"there is no {unknown[0]} in {cache.folder}")
    if arguments.all == bool(arguments.names):
        return _fail("remove takes names, or --all")
    code = 0
    for name in arguments.names or entries:
        size = entries[name].size()
        try:
            cache.remove(entries[name])
        except CacheError as error:
            code = _fail(str(error))
        else:
            print(f"{name}: {megabytes(size)} freed")
    return code


def _list(cache: Cache, entries: list[Entry]) -> int:
    if not entries:
        print(f"{cache.folder} holds no exports")
        return 0
    for entry in entries:
        recipe = entry.recipe()
        made = datetime.fromtimestamp(entry.folder.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        print(f"{entry.name}  {megabytes(entry.size())}  {made}{_state(entry, recipe)}")
        if "url" in recipe:
            print(f"    {recipe['url']}")
        for half in ("florence2", "sam2"):
            checkpoint = recipe.get(half, {})
            print(f"    {checkpoint.get('name')}  {checkpoint.get('revision')}")
    print(f"{len(entries)} in {cache.folder}")
    return 0


def _state(entry: Entry, recipe: dict[str, Any]) -> str:
    if not entry.is_whole:
        return "  unfinished"
    if "url" in recipe:  # a copy is what it is, whoever has made the original
        return ""
    return "" if recipe.get("code") == code_hash() else "  of another version of florence2-sam2"


def _fail(message: str) -> int:
    print(f"florence2-sam2 cache: {message}", file=sys.stderr)
    return 1
