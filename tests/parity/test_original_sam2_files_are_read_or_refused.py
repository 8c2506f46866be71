"""A file given as `--sam2` is one of Meta's models, or one line says why not; nothing in it is ever run."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import warnings
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import seeded_sam2 as seeded
import torch
from transformers import Sam2Config, Sam2Model

from florence2_sam2.cli import main
from florence2_sam2.export import sam2_original, sam2_original_file
from florence2_sam2.export.errors import ExportError
from florence2_sam2.server import manifest

pytestmark = pytest.mark.parity

# A fifth size, so small that a test exports it in seconds.
TOY = sam2_original.Size("toy", 16, 1, (1, 1, 2, 1), (8, 4, 4, 4), (3,), 4, picture=128)
State = dict[str, torch.Tensor]


@pytest.mark.parametrize("size", seeded.SIZES)
@pytest.mark.parametrize("version", seeded.VERSIONS)
def test_every_name_of_metas_has_its_place(version: str, size: str) -> None:
    """Meta's names and shapes against those of transformers' model: none missing, none left but the videos' own."""
    shapes = seeded.layout(version, size)
    with torch.device("meta"):
        model = Sam2Model(Sam2Config(**sam2_original.settings(sam2_original.recognise(shapes))))
    sources = {name: sam2_original.original_names(name) for name in model.state_dict()}
    used = [source for names in sources.values() for source in names]
    assert set(used) <= set(shapes)
    assert len(used) == len(set(used)) + 1  # the positional embedding serves both the picture and the prompts
    for name, tensor in model.state_dict().items():
        rows = tensor.shape[0] // len(sources[name])
        assert all(shapes[source] == (rows, *tensor.shape[1:]) for source in sources[name])
    left = {name.split(".")[0] for name in set(shapes) - set(used)}
    assert left == {
        *("memory_attention", "memory_encoder", "mask_downsample", "maskmem_tpos_enc"),
        *("no_mem_pos_enc", "no_obj_ptr", "obj_ptr_proj"),
        *(("no_obj_embed_spatial", "obj_ptr_tpos_proj") if version == "sam2.1" else ()),
    }


@pytest.fixture(scope="module")
def toy_state() -> State:
    """The toy's state dict under Meta's names, with a part that only videos need."""
    model = Sam2Model(Sam2Config(**sam2_original.settings(TOY)))
    shapes = {"memory_encoder.out_proj.weight": (4, 4)}
    for name, tensor in model.state_dict().items():
        sources = sam2_original.original_names(name)
        shapes |= {source: (tensor.shape[0] // len(sources), *tensor.shape[1:]) for source in sources}
    return {name: torch.from_numpy(value) for name, value in seeded.state(shapes, seed=5).items()}


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, toy_state: State) -> Path:
    monkeypatch.setattr(sam2_original, "SIZES", (*sam2_original.SIZES, TOY))
    torch.save({"model": toy_state}, tmp_path / "toy.pt")
    return tmp_path / "toy.pt"


def loaded(file: Path, content: Any, **how: Any) -> State:
    torch.save(content, file, **how)
    return sam2_original_file.load(file).state_dict()


def test_wrappings_and_precisions_give_the_same_model(toy: Path, toy_state: State) -> None:
    expected = sam2_original_file.load(toy).state_dict()
    assert {value.dtype for value in expected.values()} == {torch.float32}
    assert {value.device.type for value in expected.values()} == {"cpu"}
    for content in (
        toy_state,
        {f"module.{name}": value for name, value in toy_state.items()},
        {
            "model": {f"module.{name}": value for name, value in toy_state.items()},
            "epoch": 3,
            "loss": {"x": 0.5},
        },
        {"model": {name: value.double() for name, value in toy_state.items()}},
        {"model": stored_by_columns(toy_state)},
    ):
        found = loaded(toy, content)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    found = loaded(toy, {"model": toy_state}, _use_new_zipfile_serialization=False)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    found = loaded(toy, {"model": {name: value.bfloat16() for name, value in toy_state.items()}})
    assert all(torch.equal(found[name], expected[name].bfloat16().float()) for name in expected)


def stored_by_columns(state: State) -> State:
    """The same matrices, another order in memory."""
    return {name: value.t().contiguous().t() if value.ndim == 2 else value for name, value in state.items()}


class Runs:
    """Pickled, this asks for a command to be run on opening."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.trace}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_not_run(tmp_path: Path, zipped: bool) -> None:
    trace, file = tmp_path / "trace", tmp_path / "checkpoint.pt"
    torch.save({"model": {}, "x": Runs(trace)}, file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ExportError, match=r"checkpoint\.pt: it asks to run \w+\.system"):
        sam2_original_file.load(file)
    assert not trace.exists()
    torch.load(file, weights_only=False)  # that it would have run
    assert trace.exists()


def saved(content: Any, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def scripted() -> bytes:
    stream = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # torch calls its own format old
        torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)), stream)
    return stream.getvalue()


def zip_of_text() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("readme.txt", "no tensors")
    return stream.getvalue()


TENSORS = {"model": {"a": torch.ones(100, 100), "b": torch.ones(3)}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no checkpoint that torch can read"),
        (b"hello world\n", "no checkpoint that torch can read"),
        (b"<!DOCTYPE html><html>404</html>", "no checkpoint that torch can read"),
        (os.urandom(5000), "no checkpoint that torch can read|cut off"),
        (zip_of_text(), "no checkpoint that torch can read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (safetensors.torch.save({"a": torch.ones(3)}), "safetensors file: give the folder"),
        (saved(TENSORS)[:20_000], "cut off or damaged"),
        (saved(TENSORS)[:-1], "cut off or damaged"),
        (saved(TENSORS, _use_new_zipfile_serialization=False)[:20_000], "or it is damaged"),
        (scripted(), "no checkpoint that torch can read"),
        (saved(torch.nn.Linear(2, 2)), r"asks to run torch\.nn\.modules\.linear\.Linear"),
        (saved({"model": defaultdict(int)}), r"asks to run collections\.defaultdict"),
        (saved({"model": {}, "path": pathlib.PurePosixPath("x")}), r"asks to run pathlib\.PurePosixPath"),
        (saved(torch.ones(3)), "no state dict"),
        (saved([1, 2]), "no state dict"),
        (saved({"model": [1]}), "no state dict"),
        (saved({1: torch.ones(1)}), "no state dict"),
        (saved({}), "no SAM2"),
        (saved({"epoch": 3, "lr": 0.1}), "its epoch is int, not a tensor"),
        (saved(TENSORS), r"no SAM2.*its first name is a$"),
    ],
)
def test_other_files_are_refused_with_the_reason(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "sam2.1_hiera_tiny.pt"  # a name is no proof
    file.write_bytes(content)
    with pytest.raises(ExportError, match=message) as caught:
        sam2_original_file.load(file)
    assert str(caught.value).startswith("sam2.1_hiera_tiny.pt: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_encoder.trunk.blocks.1.attn.qkv.bias": None},
            r"SAM2 toy it lacks .*blocks\.1\.attn\.qkv\.bias$",
        ),
        (
            {"sam_prompt_encoder.point_embeddings.3.weight": None},
            r"lacks sam_prompt_encoder\.point_embeddings\.3",
        ),
        ({"lora.down": torch.ones(2, 2)}, r"SAM2 toy has no place for lora\.down$"),
        ({"no_mem_embed": torch.ones(256)}, r"its no_mem_embed must be of shape \[1, 1, 256\], not \[256\]"),
        (
            {"no_mem_embed": torch.ones(1, 1, 256, dtype=torch.int8)},
            r"no_mem_embed holds no plain.*torch\.int8",
        ),
        (
            {"no_mem_embed": torch.ones(1, 1, 256).to_sparse()},
            r"no_mem_embed holds no plain.*torch\.sparse_coo",
        ),
        ({"no_mem_embed": torch.ones(1, 1, 256, device="meta")}, r"no_mem_embed holds no plain.*on meta"),
        (
            {"no_mem_embed": torch.full((1, 1, 256), torch.nan)},
            r"no_mem_embed holds values that are not finite",
        ),
        (
            {"obj_ptr_tpos_proj.bias": torch.ones(2), "no_mem_embed": None},
            r"as SAM2\.1 toy it lacks no_mem_embed",
        ),
        ({"no_mem_embed": 1.0}, "its no_mem_embed is float, not a tensor"),
    ],
)
def test_files_that_are_not_whole_are_refused_by_name(
    toy: Path, toy_state: State, changes: dict[str, Any], message: str
) -> None:
    state = {name: value for name, value in (toy_state | changes).items() if value is not None}
    with pytest.raises(ExportError, match=message):
        loaded(toy, {"model": state})


def test_a_file_is_exported_with_all_checks(toy: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    assert main(["export", "--sam2", str(toy), "--output", str(repository)]) == 0
    exported = manifest.read_sam2(repository)
    assert exported.source.checkpoint == "toy.pt"
    assert exported.source.sha256 == hashlib.sha256(toy.read_bytes()).hexdigest()
    assert (exported.image.height, exported.image.width, exported.mask_size) == (128, 128, 32)
    assert exported.image.mean == (0.485, 0.456, 0.406)
    assert exported.image.resample == "bilinear"
    assert exported.parity


@pytest.mark.parametrize("flag", ["--sam2", "--florence2"])
def test_the_command_says_it_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    file = tmp_path / "model.pt"
    torch.save({"weight": torch.ones(2)}, file)
    assert main(["export", flag, str(file), "--output", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "model.pt" in said[0]
    assert [path.name for path in tmp_path.iterdir()] == ["model.pt"]
