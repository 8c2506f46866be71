"""Weights beside the graph (an ONNX file ends at 2 GB): written, hashed, copied, checked, replaced and served."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from florence2_sam2.client import Segmenter
from florence2_sam2.export import graphs
from florence2_sam2.export.checks import Case, check_graph
from florence2_sam2.export.run import export
from florence2_sam2.server import manifest
from florence2_sam2.server.launch.checks import check_repository
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.onnx_session import THREADS_VARIABLE, is_small, threads

pytestmark = pytest.mark.parity

DECODER = "sam2_mask_decoder/1/model.onnx"
TABLE = "florence2/1/embedding.npy"


def written(repository: Path) -> set[str]:
    files = (path for path in repository.rglob("*.onnx*"))
    return {path.relative_to(repository).as_posix() for path in files}


def named(repository: Path) -> dict[str, str]:
    return manifest.read_florence2(repository).files | manifest.read_sam2(repository).files


@pytest.fixture(scope="module")
def repository(small_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export in which every graph counts as too large for one file."""
    output = tmp_path_factory.mktemp("external") / "repository"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graphs, "EXTERNAL_DATA_FROM_BYTES", 1_000_000)
        export(
            output,
            str(small_checkpoints / "florence2"),
            str(small_checkpoints / "sam2"),
            report=lambda text: None,
        )
    return output


def test_each_graph_has_its_weights_beside_it(repository: Path) -> None:
    files = written(repository)
    assert len(files) == 10
    assert files == {name for name in files if name.endswith(".onnx")} | {
        f"{name}.data" for name in files if name.endswith(".onnx")
    }
    for name in files:
        if name.endswith(".onnx"):
            model = onnx.load(repository / name, load_external_data=False)
            places = {entry.value for tensor in model.graph.initializer for entry in tensor.external_data}
            assert f"{Path(name).name}.data" in places  # a name, no path: the folder can move


def test_the_manifests_name_both_files_with_their_hashes(repository: Path) -> None:
    assert set(named(repository)) == {*written(repository), TABLE}
    for name, digest in named(repository).items():
        assert hashlib.sha256((repository / name).read_bytes()).hexdigest() == digest


def test_threads_follow_the_weights_not_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(THREADS_VARIABLE, raising=False)
    path = tmp_path / "model.onnx"
    path.write_bytes(bytes(1000))
    assert is_small(path)
    assert threads(path) == 1
    with manifest.external_data(path).open("wb") as file:
        file.truncate(20 * 2**20)
    assert not is_small(path)


@pytest.mark.parametrize(("damage", "message"), [("missing", "is missing"), ("changed", "has changed")])
def test_serve_refuses_weights_that_are_gone_or_others(repository: Path, damage: str, message: str) -> None:
    assert check_repository(repository)
    data = manifest.external_data(repository / DECODER)
    kept = data.read_bytes()
    try:
        data.unlink()
        if damage == "changed":
            data.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(StartError, match=message) as caught:
            check_repository(repository)
        assert data.name in str(caught.value)
    finally:
        data.write_bytes(kept)


def test_the_other_half_keeps_its_weights_and_old_ones_go(repository: Path, small_checkpoints: Path) -> None:
    """Exported again as one file each, SAM2 leaves no weights behind, and Florence-2's are untouched."""
    before = {name: (repository / name).read_bytes() for name in manifest.read_florence2(repository).files}
    moved = repository.with_name("moved")
    export_to = repository.with_name("again")
    shutil.copytree(repository, export_to)
    export(export_to, sam2_checkpoint=str(small_checkpoints / "sam2"), report=lambda text: None)
    assert {name: (export_to / name).read_bytes() for name in before} == before
    assert set(manifest.read_sam2(export_to).files) == {DECODER, "sam2_image_encoder/1/model.onnx"}
    assert {*written(export_to), TABLE} == set(named(export_to))
    export_to.rename(moved)
    assert check_repository(moved)


@pytest.mark.server
def test_it_is_served(repository: Path, reference: Any) -> None:
    rgb = np.full((60, 80, 3), 200, np.uint8)
    rgb[15:40, 20:50] = (220, 40, 30)
    box = [[18.0, 13.0, 52.0, 42.0]]
    with EmbeddedServer(repository) as server, Segmenter(server.grpc_address) as segmenter:
        masked = segmenter.segment(rgb, boxes=box, area_threshold=1, confidence_threshold=0)
        captioned = segmenter.segment(rgb, area_threshold=1, confidence_threshold=0, max_new_tokens=30)
    expected = reference.segment(rgb, boxes=box, area_threshold=1, confidence_threshold=0)
    np.testing.assert_allclose([item.score for item in masked.objects], expected.scores, atol=1e-4)
    assert masked.objects[0].mask_area == pytest.approx(int(expected.masks[0].sum()), abs=2)
    written_by_reference = reference.segment(rgb, max_new_tokens=30, area_threshold=1)
    assert captioned.caption == written_by_reference.caption


FACTOR = 0.5 + 2**-13  # which float16 does not hold: it would be stored in half the space


class Large(torch.nn.Module):
    """2.4 GB of weights. Each moves its input and multiplies it by FACTOR.

    All other summands are 0: in whatever order a machine sums, the answer is the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights = torch.nn.ParameterList(
            torch.nn.Parameter(torch.eye(10_000).roll(index + 1, 1) * FACTOR) for index in range(6)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for weight in self.weights:
            x = x @ weight
        return x


@pytest.mark.long
def test_more_than_protobuf_can_hold(tmp_path: Path) -> None:
    """Takes about 8 GB of memory and 5 GB of disk."""
    tensors = (graphs.Tensor("x", ("batch", 10_000)),), (graphs.Tensor("y", ("batch", 10_000)),)
    graph = graphs.Graph("m/1/model.onnx", Large(), *tensors, (torch.ones(1, 10_000),))
    path = tmp_path / "model.onnx"
    graphs.write_graph(graph, path, 18, "fp32")
    assert manifest.external_data(path).stat().st_size > 2**31
    assert path.stat().st_size < 2**20
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["model.onnx", "model.onnx.data"]
    x = torch.randn(2, 10_000, generator=torch.Generator().manual_seed(0))
    expected = x.roll(21, 1)
    for _ in range(6):
        expected = expected * FACTOR
    case = Case("", {"x": x.numpy()}, {"y": expected.numpy()})
    assert [row.max_abs_error for row in check_graph(graph, path, [case], "fp32")] == [0]
