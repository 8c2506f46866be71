"""`obtain`: an export is made once, found again, and never taken for whole when it is not."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from cache_machine import FLORENCE2, SAM2, Machine

from florence2_sam2.cache.content import content_hash
from florence2_sam2.cache.exporting import ExportFailed
from florence2_sam2.cache.recipe import Checkpoint, Recipe
from florence2_sam2.cache.store import Cache, CacheError, default_folder
from florence2_sam2.cli import main
from florence2_sam2.hub.download import fetch
from florence2_sam2.hub.errors import HubError, Unavailable
from florence2_sam2.hub.names import HubName
from florence2_sam2.hub.store import Store


def test_the_second_start_finds_it(machine: Machine) -> None:
    first, said = machine.obtain()
    assert (first.entry.repository / "florence2" / "1" / "manifest.json").is_file()
    assert [line for line in said if "exporting" in line]
    commits = [repository.revisions["main"] for repository in machine.hub.repositories.values()]
    assert [(row["florence2"], row["sam2"]) for row in machine.exports()] == [
        (f"{FLORENCE2}@{commits[0]}", f"{SAM2}@{commits[1]}")
    ]
    second, said = machine.obtain()
    assert second.entry == first.entry
    assert len(machine.exports()) == 1
    assert said == [f"{FLORENCE2}@{commits[0][:12]} and {SAM2}@{commits[1][:12]}, fp32: exported before"]
    other, said = machine.obtain(precision="fp16")
    small, also_said = machine.obtain(decoder_weights="int8")
    assert len({first.entry.folder, other.entry.folder, small.entry.folder}) == 3
    forms = [(row["precision"], row["decoder_weights"]) for row in machine.exports()]
    assert forms == [("fp32", "float"), ("fp16", "float"), ("fp32", "int8")]
    assert ", fp16 into " in said[0]
    assert ", fp32 with an int8 decoder into " in also_said[0]


def test_a_branch_that_moves_is_followed_and_a_pinned_revision_is_not(machine: Machine) -> None:
    old = machine.hub.repositories[SAM2].revisions["main"]
    first, _ = machine.obtain()
    machine.hub.add(SAM2, {"config.json": b"{}", "model.safetensors": b"second"})
    pinned, _ = machine.obtain(sam2=f"{SAM2}@{old}")
    assert pinned.entry == first.entry
    moved, _ = machine.obtain()
    assert moved.entry != first.entry
    assert len(machine.exports()) == 2
    machine.hub.stop()
    before = len(machine.hub.requests)
    florence2 = f"{FLORENCE2}@{machine.hub.repositories[FLORENCE2].revisions['main']}"
    assert machine.obtain(florence2, f"{SAM2}@{old}")[1][0].endswith("exported before")
    assert len(machine.hub.requests) == before, "pinned, and still the hub was asked"


def test_without_the_hub_the_newest_that_is_here_is_served(machine: Machine) -> None:
    old = machine.obtain()[0]
    new_commit = machine.hub.add(SAM2, {"config.json": b"{}", "model.safetensors": b"second"})
    new = machine.obtain()[0]
    machine.obtain(
        sam2=f"{SAM2}@{json.loads((old.entry.folder / 'recipe.json').read_text())['sam2']['revision']}"
    )
    machine.hub.add(SAM2, {"config.json": b"{}", "model.safetensors": b"third"})
    machine.hub.refuse = (503, {})
    obtained, said = machine.obtain()
    assert obtained.entry == new.entry
    line = next(line for line in said if "last seen" in line and SAM2 in line)
    assert "(503): try again later: serving" in line
    assert f"{SAM2}@{new_commit[:12]}" in line
    obtained.lock.close()
    new.lock.close()
    machine.cache.remove(new.entry)
    assert machine.obtain()[0].entry == old.entry
    assert len(machine.exports()) == 2


@pytest.mark.parametrize("offline", [True, False], ids=["HF_HUB_OFFLINE", "no connection"])
def test_without_the_hub_and_with_nothing_here(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    if offline:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        machine.hub.stop()
    with pytest.raises(
        Unavailable, match=r"and .*@main is not in the cache: go online once, or give a folder"
    ) as caught:
        machine.obtain()
    assert "\n" not in str(caught.value)
    assert not machine.exports()


def test_without_the_hub_a_download_of_the_hub_library_is_exported(machine: Machine) -> None:
    commits = {}
    for name in (FLORENCE2, SAM2):
        commits[name] = machine.hub.repositories[name].revisions["main"]
        fetch(HubName(name), print)
        Store.of(HubName(name)).remember("main", commits[name])
    machine.hub.stop()
    machine.obtain()
    assert machine.exports()[0]["sam2"] == f"{SAM2}@{commits[SAM2]}"


def test_a_mistake_in_a_name_is_found_before_anything_is_exported(machine: Machine) -> None:
    for florence2, sam2 in ((FLORENCE2, "facebook/sam3"), ("no/where", SAM2), (f"{FLORENCE2}@v9", SAM2)):
        with pytest.raises(HubError):
            machine.obtain(florence2, sam2)
    assert not machine.exports()
    assert not machine.cache.entries()


def test_a_local_folder_is_known_by_its_content(machine: Machine, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    first, _ = machine.obtain(sam2=str(folder))
    (folder / "README.md").write_text("not read by the export")
    os.utime(folder / "config.json")
    assert machine.obtain(sam2=str(folder))[0].entry == first.entry
    (folder / "model.safetensors").write_bytes(b"two")
    assert machine.obtain(sam2=str(folder))[0].entry != first.entry
    assert [row["sam2"] for row in machine.exports()] == [str(folder)] * 2


def test_contents_are_read_once(tmp_path: Path) -> None:
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    notes = tmp_path / "notes"
    first = content_hash(file, notes)
    note = next(notes.iterdir())
    note.write_text(note.read_text().replace(first, "noted"))
    assert content_hash(file, notes) == "noted", "it was read although nothing has changed"
    note.write_text("damaged")
    assert content_hash(file, notes) == first


def test_a_damaged_export_is_made_again(machine: Machine) -> None:
    obtained, _ = machine.obtain()
    graph = obtained.entry.repository / "sam2_mask_decoder" / "1" / "model.onnx"
    content = graph.read_bytes()
    graph.write_bytes(content[:-1] + b"?")
    with pytest.raises(CacheError, match=r"is damaged .* a server runs on it"):
        machine.obtain()
    obtained.lock.close()
    _, said = machine.obtain()
    assert [line for line in said if "damaged" in line]
    assert graph.read_bytes() == content


def test_without_the_export_extra(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(
        ExportFailed, match=r"torch is needed: pip install 'florence2-sam2\[export\]'"
    ) as caught:
        machine.obtain()
    assert "\n" not in str(caught.value)
    assert not machine.cache.entries()
    monkeypatch.undo()


def test_a_server_without_the_extra_goes_on_with_what_it_has(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = machine.obtain()
    machine.hub.add(SAM2, {"config.json": b"{}", "model.safetensors": b"second"})
    monkeypatch.setitem(sys.modules, "torch", None)
    for _ in range(2):
        obtained, said = machine.obtain()
        assert obtained.entry == first.entry
        assert said[0].startswith(f"without torch what is new cannot be exported: serving {FLORENCE2}@")
    monkeypatch.undo()


def test_a_cache_that_cannot_be_written(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    machine.cache = Cache(tmp_path / "file" / "cache")
    with pytest.raises(CacheError, match=r"cannot be written .*choose another folder with --cache"):
        machine.obtain()


def test_the_command_lists_and_removes(machine: Machine, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--cache", str(machine.cache.folder)]
    assert main(["cache", *place]) == 0
    assert "holds no exports" in capsys.readouterr().out
    obtained, _ = machine.obtain()
    assert main(["cache", "list", *place]) == 0
    listed = capsys.readouterr().out
    assert obtained.entry.name in listed
    assert machine.hub.repositories[SAM2].revisions["main"] in listed
    assert main(["cache", "remove", obtained.entry.name, *place]) == 1
    assert "is in use: stop the server first" in capsys.readouterr().err
    obtained.lock.close()
    assert main(["cache", "remove", *place]) == 1
    assert "remove takes names, or --all" in capsys.readouterr().err
    assert main(["cache", "remove", "nothing", *place]) == 1
    assert "there is no nothing" in capsys.readouterr().err
    assert main(["cache", "remove", "--all", *place]) == 0
    assert "freed" in capsys.readouterr().out
    assert not obtained.entry.folder.exists()


def test_what_decides_an_export_decides_its_name() -> None:
    one, other = Checkpoint("a/b", "1" * 40, "x"), Checkpoint("a/b", "2" * 40, "x")
    key = Recipe(one, other, "fp32", "float").key()
    assert re.fullmatch(r"b\+b-fp32-[0-9a-f]{12}", key)
    assert key == Recipe(Checkpoint("a/b", "1" * 40, "elsewhere"), other, "fp32", "float").key()
    small = Recipe(one, other, "fp32", "int8")
    assert small.key().startswith("b+b-fp32-int8-decoder-")
    assert small.body()["decoder_weights"] == "int8"
    different = {
        Recipe(other, one, "fp32", "float").key(),
        Recipe(one, one, "fp32", "float").key(),
        Recipe(one, other, "fp16", "float").key(),
        Recipe(one, other, "fp16", "int8").key(),
        small.key(),
    }
    assert len(different | {key}) == 6


def test_the_cache_has_a_place() -> None:
    assert default_folder({"FLORENCE2_SAM2_CACHE": "/x", "XDG_CACHE_HOME": "/y"}) == Path("/x")
    assert default_folder({"XDG_CACHE_HOME": "/y"}) == Path("/y/florence2-sam2")
    assert default_folder({}) == Path.home() / ".cache" / "florence2-sam2"
