"""A checkpoint of the hub arrives whole and verified, or not at all, and goes on where it was broken off."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import HubServer, running

from florence2_sam2.hub import download
from florence2_sam2.hub.client import Hub
from florence2_sam2.hub.download import fetch
from florence2_sam2.hub.errors import HubError, Unavailable
from florence2_sam2.hub.names import HubName
from florence2_sam2.hub.store import Store

NAME = "organisation/checkpoint"
WEIGHTS = hashlib.shake_256(b"weights").digest(3_000_000)
FILES: dict[str, bytes | Path] = {
    "config.json": b'{"model_type": "sam2"}',
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b"{}",
    "sam2.1_hiera_tiny.pt": b"pickled",
    "onnx/model.onnx": b"another form",
}
NEEDED = {"config.json", "model.safetensors", "tokenizer.json"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.setattr(download, "PAUSE_SECONDS", 0.01)
    with running() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "hub", NAME)


class Said(list[str]):
    """What the user has been told."""

    def __call__(self, text: str) -> None:
        self.append(text)

    def one(self, pattern: str) -> str:
        found = [line for line in self if re.search(pattern, line)]
        assert len(found) == 1, list(self)
        return found[0]


def get(
    hub: HubServer, store: Store, revision: str = "main", token: str | None = None
) -> tuple[Path, str, Said]:
    said = Said()
    folder, commit = fetch(HubName(NAME, revision), said, Hub(hub.endpoint, token), store)
    assert not list(store.folder.rglob("*.incomplete"))
    return folder, commit, said


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def needed(files: dict[str, bytes | Path]) -> dict[str, bytes | Path]:
    return {name: content for name, content in files.items() if name in NEEDED}


def test_what_an_export_reads_is_fetched_and_nothing_else(hub: HubServer, store: Store) -> None:
    commit = hub.add(NAME, FILES)
    folder, found, _ = get(hub, store)
    assert found == commit
    assert contents(folder) == needed(FILES)
    sent = sum(sum(request.sent) for request in hub.requests)
    (folder / "tokenizer.json").unlink()  # as another tool leaves it that wanted the weights only
    assert contents(get(hub, store, commit)[0]) == needed(FILES)
    assert sum(sum(request.sent) for request in hub.requests) == sent, "what was there was sent again"


def test_a_broken_connection_goes_on_where_it_was(hub: HubServer, store: Store) -> None:
    hub.add(NAME, FILES)
    hub.break_after["model.safetensors"] = 1_000_000
    folder, _, said = get(hub, store)
    assert contents(folder) == needed(FILES)
    assert hub.ranges_of("model.safetensors") == ["bytes=1000000-"] * 2  # the hub redirects, with the range
    assert hub.sent("model.safetensors") == len(WEIGHTS), "what had arrived was sent again"
    assert "going on with model.safetensors at 1.0 MB" in said.one("broke")


def test_a_later_run_goes_on_where_an_earlier_one_was(
    hub: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(NAME, FILES)
    hub.break_after["model.safetensors"] = 2_000_000
    monkeypatch.setattr(download, "ATTEMPTS", 1)
    monkeypatch.setattr(download, "LONGEST_PAUSE_SECONDS", 0)
    with pytest.raises(Unavailable, match=r"the next run goes on at 2\.0 MB of model\.safetensors"):
        get(hub, store)
    monkeypatch.undo()
    folder, _, said = get(hub, store)
    assert contents(folder) == needed(FILES)
    assert hub.sent("model.safetensors") == len(WEIGHTS)
    said.one("going on with an earlier download, 2.0 MB of 3.0 MB are there")


def test_a_hub_that_ignores_ranges_sends_it_all_again(hub: HubServer, store: Store) -> None:
    hub.add(NAME, FILES)
    hub.ranges = False
    hub.break_after["model.safetensors"] = 1_000_000
    assert contents(get(hub, store)[0]) == needed(FILES)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_changed_byte_is_refused_and_fetched_anew_next_time(
    hub: HubServer, store: Store, file: str
) -> None:
    hub.add(NAME, FILES)
    hub.flipped.add(file)
    with pytest.raises(
        HubError, match=f"^{file} of {NAME}@[0-9a-f]{{12}} arrived damaged .* start again"
    ) as caught:
        get(hub, store)
    assert "\n" not in str(caught.value)
    assert not [
        path for path in store.folder.rglob("*") if path.is_file() and path.stat().st_size == len(WEIGHTS)
    ]
    hub.flipped.clear()
    assert contents(get(hub, store)[0]) == needed(FILES)


def test_a_damaged_file_on_this_machine_is_found_and_replaced(hub: HubServer, store: Store) -> None:
    commit = hub.add(NAME, FILES)
    folder, _, _ = get(hub, store)
    weights = (folder / "model.safetensors").resolve()
    weights.write_bytes(WEIGHTS[:-1] + b"?")
    folder, _, said = get(hub, store, commit)
    assert contents(folder) == needed(FILES)
    said.one("model.safetensors .* is damaged on this machine: downloading it again")


def test_weights_in_several_files(hub: HubServer, store: Store) -> None:
    shards = {f"model-0000{i}-of-00002.safetensors": b"weights %d" % i for i in (1, 2)}
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    files: dict[str, bytes | Path] = {
        "config.json": b"{}",
        "model.safetensors.index.json": index.encode(),
        **shards,
    }
    hub.add(NAME, {**files, "pytorch_model.bin": b"pickled"})
    assert contents(get(hub, store)[0]) == files


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": b""}, "no checkpoint of transformers: it has no config.json"),
        ({"config.json": b"{}"}, "has no model.safetensors"),
        (
            {"config.json": b"{}", "pytorch_model.bin": b"x"},
            "pytorch_model.bin only: unpickling .* can run code",
        ),
        (
            {"config.json": b"{}", "model.safetensors.index.json": b'{"weight_map": {"a": "../../secret"}}'},
            "names ../../secret, which is not there",
        ),
        ({"config.json": b"{}", "model.safetensors.index.json": b"[]"}, "index.json is damaged"),
    ],
    ids=["no config", "no weights", "pickles", "an index that leads elsewhere", "no index"],
)
def test_what_is_no_checkpoint_is_refused(
    hub: HubServer, store: Store, files: dict[str, bytes | Path], reason: str
) -> None:
    hub.add(NAME, files)
    with pytest.raises(HubError, match=reason):
        get(hub, store)


def test_a_file_that_is_listed_and_missing(hub: HubServer, store: Store) -> None:
    commit = hub.add(NAME, FILES)
    described = Hub(hub.endpoint).describe(HubName(NAME))
    del hub.repositories[NAME].commits[commit]["model.safetensors"]
    hub.described[NAME] = described
    with pytest.raises(HubError, match="lacks a file that it lists"):
        get(hub, store)


def test_files_without_hashes_are_refused(hub: HubServer, store: Store) -> None:
    hub.add(NAME, FILES)
    hub.hashes = False
    with pytest.raises(HubError, match="without their hashes"):
        get(hub, store)


def test_a_full_disk(hub: HubServer, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(NAME, FILES)
    part = store.folder / "blobs" / f"{hashlib.sha256(WEIGHTS).hexdigest()}.incomplete"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")  # each write fails as on a full disk
    with pytest.raises(HubError, match="the disk is full: free some, or set HF_HOME") as caught:
        get(hub, store)
    assert "\n" not in str(caught.value)
    part.unlink()
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    with pytest.raises(HubError, match=r"needs 3\.0 MB in .*, 0\.0 MB are free: free some, or set HF_HOME"):
        get(hub, store)


def test_a_folder_that_cannot_be_written(hub: HubServer, tmp_path: Path) -> None:
    hub.add(NAME, FILES)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(HubError, match=r"cannot be stored in .* make it writable, or set HF_HOME"):
        get(hub, Store(tmp_path / "file", NAME))


def test_without_the_hub_what_was_downloaded_will_do(hub: HubServer, store: Store) -> None:
    commit = hub.add(NAME, FILES)
    folder, _, _ = get(hub, store)
    store.remember("main", commit)
    hub.stop()
    again, found, said = get(hub, store)
    assert (again, found) == (folder, commit)
    said.one(f"cannot be reached .*: taking {NAME}@main as downloaded before, at {commit[:12]}")
    assert (
        fetch(HubName(NAME), Said(), Hub(hub.endpoint, offline="HF_HUB_OFFLINE is set"), store)[1] == commit
    )
    (folder / "config.json").unlink()
    with pytest.raises(Unavailable, match="go online once, or give a folder"):
        get(hub, store)
    with pytest.raises(Unavailable, match="has not been downloaded: go online once"):
        get(hub, store, "other")
