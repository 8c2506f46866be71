"""From the names of two checkpoints to a model repository: found in the cache, or exported into it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from florence2_sam2.cache import exporting
from florence2_sam2.cache.content import content_hash
from florence2_sam2.cache.recipe import Checkpoint, Recipe
from florence2_sam2.cache.store import Cache, CacheError, Entry, Lock
from florence2_sam2.hub.client import Hub
from florence2_sam2.hub.errors import HubError, Unavailable
from florence2_sam2.hub.names import HubName, parse
from florence2_sam2.hub.store import Store
from florence2_sam2.server.launch import checks
from florence2_sam2.server.launch.errors import StartError

Say = Callable[[str], None]
LOCK_ATTEMPTS = 10


@dataclass(frozen=True)
class Obtained:
    """A repository of the cache, checked. `lock` keeps it from being removed until the process ends."""

    entry: Entry
    lock: Lock


@dataclass(frozen=True)
class _Located:
    """What an argument may mean, the best first.

    `name` is set for a branch or tag of the hub; `unresolved` is why the hub did not say where that is now: then
    `choices` are the commits at which it was seen before, and else `earlier` are.
    """

    choices: list[Checkpoint]
    earlier: list[Checkpoint] = dataclasses.field(default_factory=list)
    name: HubName | None = None
    unresolved: HubError | None = None


def obtain(
    florence2: str,
    sam2: str,
    precision: str,
    decoder_weights: str,
    cache: Cache,
    say: Say,
    check_hashes: bool = True,
) -> Obtained:
    """The repository of two checkpoints, each a folder, a file or NAME@REVISION of the hub.

    Args:
        precision, decoder_weights: as `export` takes them.
        say: gets one line for each thing that takes time or was decided.
        check_hashes: also compare the repository's files with its manifests.

    Raises:
        HubError, ExportFailed, CacheError: one line that says what is wrong and what to do.
    """
    asker = Hub.from_environment()
    first = _locate(florence2, cache, asker)
    if isinstance(first.unresolved, Unavailable):
        # It may take long to be silent, and need not be so twice.
        asker = dataclasses.replace(asker, offline=str(first.unresolved))
    second = _locate(sam2, cache, asker)
    form = (precision, decoder_weights)
    chosen = _exported(first.choices, second.choices, form, cache)
    missing = exporting.missing_packages()
    if chosen is None and missing:
        # A server without the extra must not stop starting because a branch has moved.
        chosen = _exported(first.choices + first.earlier, second.choices + second.earlier, form, cache)
        if chosen is not None:
            say(
                f"without {', '.join(missing)} what is new cannot be exported: serving {chosen}, exported before"
            )
    chosen = chosen or Recipe(_to_export(first), _to_export(second), *form)
    halves = ((first, chosen.florence2), (second, chosen.sam2))
    for half, checkpoint in halves:
        if half.unresolved is not None:
            say(f"{half.unresolved}: serving {checkpoint}, where {half.name} was last seen")
    entry = cache.entry(chosen.key())

    def export() -> None:
        _export(chosen, entry, cache, say)

    words = (f"another process exports {chosen}: waiting for it", f"{chosen}: exported before")
    obtained = take(entry, export, words, cache, say, check_hashes)
    for half, checkpoint in halves:
        if half.name is not None and half.unresolved is None and checkpoint == half.choices[0]:
            cache.remember(half.name, checkpoint.revision)
            with contextlib.suppress(OSError):  # only for other users of the hub library's cache
                Store.of(half.name).remember(half.name.revision, checkpoint.revision)
    return obtained


def _locate(text: str, cache: Cache, asker: Hub) -> _Located:
    found = parse(text)
    if isinstance(found, Path):
        revision = f"sha256:{content_hash(found, cache.contents)}"
        return _Located([Checkpoint(found.resolve().name, revision, str(found))])
    if found.is_pinned:
        return _Located([_at(found, found.revision)])
    seen = cache.commits(found)
    try:
        current = asker.resolve(found)
    except HubError as error:
        other = Store.of(found).commit_of(found.revision)
        if other is not None and other not in seen:
            seen.append(other)
        if not seen:
            raise type(error)(f"{error}{_nothing_here(found, error)}") from None
        return _Located([_at(found, commit) for commit in seen], [], found, error)
    return _Located([_at(found, current)], [_at(found, commit) for commit in seen], found)


def _exported(
    florence2: list[Checkpoint], sam2: list[Checkpoint], form: tuple[str, str], cache: Cache
) -> Recipe | None:
    """The first pair that is in the cache."""
    recipes = (Recipe(*pair, *form) for pair in itertools.product(florence2, sam2))
    return next((recipe for recipe in recipes if cache.entry(recipe.key()).is_whole), None)


def _at(name: HubName, commit: str) -> Checkpoint:
    return Checkpoint(name.repository, commit, f"{name.repository}@{commit}")


def _to_export(half: _Located) -> Checkpoint:
    """The choice to export: where the hub does not answer, one that was downloaded before.

    Raises:
        HubError: there is none.
    """
    if half.unresolved is None:
        return half.choices[0]
    for checkpoint in half.choices:
        with contextlib.suppress(HubError):
            Store.of(HubName(checkpoint.name)).files_of(checkpoint.revision)
            return checkpoint
    raise type(half.unresolved)(f"{half.unresolved}{_nothing_here(half.name, half.unresolved)}")


def _nothing_here(name: HubName | None, error: HubError) -> str:
    if not isinstance(error, Unavailable):
        return ""
    return f", and {name} is not in the cache: go online once, or give a folder with the checkpoint"


def take(
    entry: Entry,
    make: Callable[[], None],
    words: tuple[str, str],
    cache: Cache,
    say: Say,
    check_hashes: bool,
) -> Obtained:
    """The entry with its lock shared: as it is, after another process has made it, or after this one has.

    The lock is waited for in its shared form only. Whoever waited to have it alone would wait for the other server's
    end, and not for its export's.

    Args:
        make: makes it; called with the lock.
        words: what is said while another process makes it, and where it was made before.
    """
    lock = cache.lock(entry)

    def waiting() -> None:
        say(words[0])

    try:
        alone = not entry.is_whole
        for _ in range(LOCK_ATTEMPTS):
            if alone and lock.try_to_own():
                if _damage(entry, check_hashes) is not None:
                    make()
                lock.share(waiting)
                return Obtained(entry, lock)
            lock.share(waiting)
            damage = _damage(entry, check_hashes)
            if damage is None:
                say(words[1])
                return Obtained(entry, lock)
            lock.release()
            alone = True
            time.sleep(
                random.uniform(0.05, 0.3)
            )  # others that waited as well must not stay in step with this one
        raise CacheError(
            f"{entry.folder} is damaged ({damage}), and a server runs on it: stop that one first"
        )
    except BaseException:
        lock.close()
        raise


def _damage(entry: Entry, check_hashes: bool) -> str | None:
    """What is wrong with the entry, None when it can be served."""
    if not entry.is_whole:
        return "it is not whole"
    try:
        checks.check_repository(entry.repository, check_hashes)
    except StartError as error:
        return str(error)
    return None


def _export(recipe: Recipe, entry: Entry, cache: Cache, say: Say) -> None:
    exporting.require_packages(recipe)
    if entry.is_whole:
        say(f"the export in the cache is damaged: {_damage(entry, check_hashes=True)}")
    cache.prepare(entry, recipe.body())
    say(f"exporting {recipe} into {entry.folder}: once, minutes for large checkpoints")
    try:
        exporting.export(recipe, entry.repository, say)
    except BaseException:
        entry.discard()
        raise
