"""Export writes where nothing is, or into what it wrote: in one move, and only when all went well."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.repository import remove_graph, require_usable, staged
from florence2_sam2.server.manifest import ImageSpec, Sam2, Source, packaged_repository


def sam2_manifest() -> Sam2:
    image = ImageSpec(256, 256, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "bilinear")
    return Sam2(Source("small", "00"), "fp32", 18, image, mask_size=64)


def write(output: Path, weights: bytes = b"old weights") -> Path:
    """A repository with one half in it."""
    with staged(output) as stage:
        sam2_manifest().write(stage / "sam2" / "1")
        (stage / "sam2_image_encoder" / "1" / "model.onnx").write_bytes(weights)
    return output


def write_and_fail(output: Path) -> None:
    with staged(output) as stage:
        graph = stage / "sam2_image_encoder" / "1" / "model.onnx"
        remove_graph(graph)
        graph.write_bytes(b"new weights")
        raise ExportError("a check failed")


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_new_repository_is_the_packaged_one_without_its_models(tmp_path: Path) -> None:
    with staged(tmp_path / "new"):
        pass
    found = everything(tmp_path / "new")
    wanted = {
        name: content
        for name, content in everything(packaged_repository()).items()
        if name.endswith((".pbtxt", "model.py"))
    }
    assert found == wanted
    assert all((folder / "1").is_dir() for folder in (tmp_path / "new").iterdir())


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="a check failed"):
        write_and_fail(tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_an_existing_repository_as_it_was(tmp_path: Path) -> None:
    output = write(tmp_path / "repository")
    before = everything(output)
    with pytest.raises(ExportError, match="a check failed"):
        write_and_fail(output)
    assert everything(output) == before
    assert list(tmp_path.iterdir()) == [output]


def test_an_existing_repository_keeps_what_is_not_replaced(tmp_path: Path) -> None:
    output = write(tmp_path / "repository")
    config = output / "segment" / "config.pbtxt"
    config.write_text(config.read_text() + "# the operator's own line\n")
    before = everything(output)
    with staged(output) as stage:
        (stage / "florence2" / "1" / "decoder.onnx").write_bytes(b"decoder")
    assert everything(output) == before | {"florence2/1/decoder.onnx": b"decoder"}


def test_weights_that_stay_are_not_copied(tmp_path: Path) -> None:
    output = write(tmp_path / "repository")
    inode = os.stat(output / "sam2_image_encoder" / "1" / "model.onnx").st_ino
    with staged(output):
        pass
    assert os.stat(output / "sam2_image_encoder" / "1" / "model.onnx").st_ino == inode


def test_external_weights_go_with_their_graph(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.onnx.data", "model.py"):
        (tmp_path / name).write_bytes(b"")
    remove_graph(tmp_path / "model.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]


def test_an_empty_folder_is_fine(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "segment" / "config.pbtxt").is_file()


@pytest.mark.parametrize("kind", ["a file", "someone's folder", "no manifest", "damaged manifest"])
def test_anything_else_is_refused_and_untouched(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "output"
    if kind == "a file":
        output.write_text("mine")
    elif kind == "someone's folder":
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
    else:
        write(output)
        manifest = output / "sam2" / "1" / "manifest.json"
        if kind == "no manifest":
            manifest.unlink()
        else:
            manifest.write_text(manifest.read_text()[:40])
    before = everything(tmp_path)
    with pytest.raises(ExportError, match="--output"):
        require_usable(output)
    with pytest.raises(ExportError, match="--output"), staged(output):
        pass
    assert everything(tmp_path) == before
