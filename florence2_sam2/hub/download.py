"""A checkpoint of the hub as a folder on this machine: what is missing is downloaded, everything is verified."""

from __future__ import annotations

import errno
import shutil
import time
from http.client import HTTPResponse
from pathlib import Path

from florence2_sam2.hub import listing
from florence2_sam2.hub.client import NETWORK_ERRORS, Hub
from florence2_sam2.hub.errors import HubError, Unavailable
from florence2_sam2.hub.listing import HubFile
from florence2_sam2.hub.names import HubName, parse
from florence2_sam2.hub.progress import Progress, Say, megabytes
from florence2_sam2.hub.store import Store

BLOCK_BYTES = 1 << 20
ATTEMPTS = 5  # without a single byte in between
PAUSE_SECONDS = 1.0  # before the second attempt; doubles
LONGEST_PAUSE_SECONDS = 60.0  # when the hub asks for more, the user is told instead


def fetch(name: HubName, say: Say, hub: Hub | None = None, store: Store | None = None) -> tuple[Path, str]:
    """The folder with the files of `name` that an export reads, and its commit.

    A file is downloaded beside its place, goes on where an earlier download was broken off, and gets its name only
    when its hash is the one the hub lists. Files of earlier downloads, the hub library's included, are verified
    too. When the hub does not answer, a snapshot that is there will do. While it does, its list of files is looked
    at even for a commit that is there: other tools fetch parts of a repository, say the weights without the tokenizer.

    Raises:
        HubError: the hub has no such checkpoint, or it is damaged, or there is no room. One line.
        Unavailable: the hub does not answer, and the checkpoint has not been downloaded.
    """
    hub = hub or Hub.from_environment()
    store = store or Store.of(name)
    try:
        description = hub.describe(name)
    except Unavailable as reason:
        return _downloaded_before(name, store, reason, say)
    commit = description["sha"]
    name = name.at(commit)
    files = listing.read_listing(description)
    try:
        _fetch_files([files[file] for file in listing.configs(str(name), files)], name, hub, store, say)
        names = listing.weights(str(name), store.snapshot(commit), files)
        _fetch_files([files[file] for file in names], name, hub, store, say)
    except OSError as error:
        what = "the disk is full: free some" if error.errno == errno.ENOSPC else f"{error}: make it writable"
        raise HubError(
            f"{name} cannot be stored in {store.folder}: {what}, or set HF_HOME to another folder"
        ) from None
    return store.snapshot(commit), commit


def pinned(checkpoint: str, say: Say) -> str:
    """`checkpoint` as it is when it names something local; one of the hub is fetched and gets its commit as revision.

    Raises:
        HubError, Unavailable: as `fetch`; or there is nothing of that name.
    """
    name = parse(checkpoint)
    if isinstance(name, Path):
        return checkpoint
    _, commit = fetch(name, say)
    return f"{name.repository}@{commit}"


def _downloaded_before(name: HubName, store: Store, reason: Unavailable, say: Say) -> tuple[Path, str]:
    commit = name.revision if name.is_pinned else store.commit_of(name.revision)
    try:
        if commit is None:
            raise HubError(f"{name} has not been downloaded")
        files = store.files_of(commit)
    except HubError as lacking:
        raise Unavailable(
            f"{reason}, and {lacking}: go online once, or give a folder with the checkpoint",
            reason.retry_after,
        ) from None
    folder = store.snapshot(commit)
    for file in files:
        # Where links are not supported a snapshot holds the file itself, and nothing tells its hash.
        if len(file.digest) in (40, 64) and not file.is_content_of(folder / file.name):
            raise HubError(
                f"{file.name} of {name} is damaged on this machine and cannot be fetched again: {reason}"
            )
    say(f"{reason}: taking {name} as downloaded before, at {commit[:12]}")
    return folder, commit


def _fetch_files(files: list[HubFile], name: HubName, hub: Hub, store: Store, say: Say) -> None:
    missing = [file for file in files if not _is_there(file, name, store, say)]
    if not missing:
        return
    total = sum(file.size for file in missing)
    done = sum(_size(_part(file, store)) for file in missing)
    _require_room(store, name, total - done)
    if done:
        say(f"{name}: going on with an earlier download, {megabytes(done)} of {megabytes(total)} are there")
    progress = Progress(str(name), total, done, say)
    for file in missing:
        with store.locked(file):
            if not _is_there(file, name, store, say):
                _download(file, name, hub, _part(file, store), progress)
                _put_in_place(file, name, store)
    progress.finish()


def _is_there(file: HubFile, name: HubName, store: Store, say: Say) -> bool:
    """Whether the file is in the snapshot, with the right content; a damaged one is removed."""
    blob, pointer = store.blob(file), store.snapshot(name.revision) / file.name
    for path in (pointer, blob):
        if not path.is_file():
            continue
        if file.is_content_of(path):
            if path is blob:
                store.link(file, name.revision)
            return True
        say(f"{file.name} of {name} is damaged on this machine: downloading it again")
        path.resolve().unlink()
    return False


def _download(file: HubFile, name: HubName, hub: Hub, part: Path, progress: Progress) -> None:
    """Append to `part` until it has the file's size."""
    part.parent.mkdir(parents=True, exist_ok=True)
    if _size(part) > file.size:
        part.unlink()
    failures = 0
    while (have := _size(part)) < file.size or not part.exists():
        try:
            with hub.open(hub.file_url(name, file.name), name, start=have) as response:
                broken = _receive(response, part, have, progress)
        except Unavailable as error:
            broken = error
        failures = 0 if _size(part) > have else failures + 1
        if _size(part) >= file.size:
            break
        pause = (
            broken.retry_after
            if broken.retry_after is not None
            else PAUSE_SECONDS * 2 ** max(failures - 1, 0)
        )
        if failures == ATTEMPTS or pause > LONGEST_PAUSE_SECONDS:
            raise Unavailable(
                f"{broken}; the next run goes on at {megabytes(_size(part))} of {file.name}", pause
            )
        progress.interrupt(
            f"{broken}: going on with {file.name} at {megabytes(_size(part))} in {pause:.0f} s"
        )
        time.sleep(pause)


def _receive(response: HTTPResponse, part: Path, have: int, progress: Progress) -> Unavailable:
    """Write what comes to `part`; returns why no more came."""
    resumed = response.status == 206
    if have and not resumed:
        progress.advance(-have)  # it starts again from the beginning, whatever was asked for
    with part.open("ab" if resumed else "wb") as file:
        while True:
            try:
                block = response.read1(BLOCK_BYTES)  # what is there: a full block would be lost at a break
            except NETWORK_ERRORS as error:
                return Unavailable(f"the connection broke ({error})")
            if not block:
                return Unavailable("the connection broke")
            file.write(block)
            progress.advance(len(block))


def _put_in_place(file: HubFile, name: HubName, store: Store) -> None:
    part = _part(file, store)
    if not file.is_content_of(part):
        size = _size(part)
        part.unlink()
        raise HubError(
            f"{file.name} of {name} arrived damaged ({megabytes(size)} with another hash than the hub lists) and was"
            " removed: start again; if that does not help, a proxy or mirror in between changes it"
        )
    part.replace(store.blob(file))
    store.link(file, name.revision)


def _require_room(store: Store, name: HubName, needed: int) -> None:
    folder = next(path for path in (store.folder, *store.folder.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HubError(
            f"{name} needs {megabytes(needed)} in {store.folder}, {megabytes(free)} are free: free some, or set HF_HOME"
            " to another folder"
        )


def _part(file: HubFile, store: Store) -> Path:
    return store.blob(file).with_name(file.digest + ".incomplete")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
