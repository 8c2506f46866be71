"""The export command end to end on the small checkpoints: both precisions, each half, failures, and what it writes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tokenizers
import torch
from exports import Exported
from transformers import Florence2Config, Florence2ForConditionalGeneration, Florence2Processor

from florence2_sam2.cli import main
from florence2_sam2.export import graphs
from florence2_sam2.export.checks import Case, check_graph
from florence2_sam2.export.configs import read_dims, read_profile
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.run import export
from florence2_sam2.export.shrink import share_equal_initializers
from florence2_sam2.server import manifest
from florence2_sam2.server.generation.embedding import DECODER_EMBEDDING, EMBEDDING, embeddings

pytestmark = pytest.mark.parity

FLORENCE2_FILES = {
    "florence2_vision_encoder/1/model.onnx",
    "florence2/1/text_encoder.onnx",
    "florence2/1/decoder.onnx",
}
SAM2_FILES = {"sam2_image_encoder/1/model.onnx", "sam2_mask_decoder/1/model.onnx"}


@pytest.fixture(scope="module", params=["fp32", "fp16"])
def exported(request: pytest.FixtureRequest, exports: Callable[[str], Exported]) -> Exported:
    return exports(request.param)


def precision(exported: Exported) -> str:
    return manifest.read_sam2(exported.repository).precision


def test_every_output_was_compared_and_agrees(exported: Exported) -> None:
    compared = {(row.graph, row.output) for row in exported.rows}
    assert {graph for graph, _ in compared} == FLORENCE2_FILES | SAM2_FILES
    assert {output for _, output in compared} >= {
        "image_features",
        "cross_key",
        "cross_value",
        "logits",
        "new_key",
        "new_value",
        "image_embeddings",
        "high_res_features_0",
        "high_res_features_1",
        "mask_logits",
        "scores",
    }
    assert all(row.passed for row in exported.rows)
    if precision(exported) == "fp32":
        assert max(row.max_abs_error for row in exported.rows) < 1e-4
    else:
        # float16 has to show somewhere: else nothing was converted
        assert max(row.max_abs_error for row in exported.rows) > 1e-3


def test_the_table_and_the_time_of_each_part_are_printed(exported: Exported) -> None:
    table = next(text for text in exported.said if "max abs error" in text)
    for row in exported.rows:
        assert any(row.graph in line and row.output in line for line in table.splitlines())
    for file in FLORENCE2_FILES | SAM2_FILES:
        assert any(re.search(rf"{file}: .* in \d+\.\d s", text) for text in exported.said)


def test_manifests_describe_the_files(exported: Exported) -> None:
    florence2 = manifest.read_florence2(exported.repository)
    sam2 = manifest.read_sam2(exported.repository)
    assert set(florence2.files) == {*FLORENCE2_FILES, f"florence2/1/{EMBEDDING}"}
    assert set(sam2.files) == SAM2_FILES
    for file, digest in (florence2.files | sam2.files).items():
        assert hashlib.sha256((exported.repository / file).read_bytes()).hexdigest() == digest
    assert set(florence2.parity) | set(sam2.parity) == {f"{row.graph}:{row.output}" for row in exported.rows}
    assert florence2.source.checkpoint == "florence2"
    assert {"torch", "transformers", "onnx", "onnxruntime", "exporter"} <= set(florence2.exported_with)
    assert set(florence2.answers) == set(florence2.prompts) | set(florence2.prompts_with_text)


def test_the_graphs_are_what_the_manifest_says(exported: Exported) -> None:
    for file in FLORENCE2_FILES | SAM2_FILES:
        model = onnx.load(exported.repository / file)
        halves = {t.name for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16}
        used = {node.op_type for node in model.graph.node if halves & set(node.input)}
        if (
            precision(exported) == "fp32"
        ):  # weights that are stored in half the space, but computed with in full
            assert used <= {"Cast", "Gather"}
        else:
            assert used & {"MatMul", "Conv", "Gemm"}
        ends = [*model.graph.input, *model.graph.output]
        assert onnx.TensorProto.FLOAT16 not in {value.type.tensor_type.elem_type for value in ends}
        assert model.opset_import[0].version == 18
        assert "If" not in {node.op_type for node in model.graph.node}


def test_tokens_are_looked_up_as_transformers_does(exported: Exported, small_checkpoints: Path) -> None:
    """The checkpoint is stored in float16, so both precisions have its very values, in half of float32's bytes."""
    folder = exported.repository / "florence2" / "1"
    prompt, own = embeddings(folder)
    assert prompt is own
    model = Florence2ForConditionalGeneration.from_pretrained(
        small_checkpoints / "florence2", dtype=torch.float32
    )
    weight = model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(prompt(np.arange(len(weight))), weight)
    assert (folder / EMBEDDING).stat().st_size < 2 * weight.size + 200
    # and nowhere else but in the head
    in_graph = [t.dims for t in onnx.load(folder / "text_encoder.onnx").graph.initializer]
    assert max(dims[0] for dims in in_graph if dims) < len(weight)


def test_configs_have_the_sizes_of_the_graphs(exported: Exported) -> None:
    for leaf in ("florence2_vision_encoder", "sam2_image_encoder", "sam2_mask_decoder"):
        model = onnx.load(exported.repository / leaf / "1" / "model.onnx")
        folder = exported.repository / leaf
        shapes = {
            value.name: tuple(axis.dim_value or -1 for axis in value.type.tensor_type.shape.dim)
            for value in (*model.graph.input, *model.graph.output)
        }
        for form in ("embedded", "tensorrt", "onnxruntime_tensorrt"):
            for path in (folder / "config.pbtxt", folder / "configs" / f"{form}.pbtxt"):
                tensors, _ = read_dims(path.read_text())
                assert all(tensors[name] in (dims, dims[1:]) for name, dims in shapes.items())
        for profile in read_profile(folder).values():
            assert profile.keys() == {value.name for value in model.graph.input}
            for name, sizes in profile.items():
                assert len(sizes) == len(shapes[name])
                assert all(want in (-1, size) for want, size in zip(shapes[name], sizes, strict=True))


def test_embedding_and_head_share_their_weights(exported: Exported) -> None:
    tokens = manifest.read_florence2(exported.repository).tokens
    model = onnx.load(exported.repository / "florence2/1/decoder.onnx")
    tables = [tensor for tensor in model.graph.initializer if tokens.vocabulary in tensor.dims]
    assert len(tables) == 1


def test_the_tokenizer_is_the_processors(exported: Exported, small_checkpoints: Path) -> None:
    florence2 = manifest.read_florence2(exported.repository)
    own = tokenizers.Tokenizer.from_file(str(exported.repository / "florence2" / "1" / florence2.tokenizer))
    theirs = Florence2Processor.from_pretrained(small_checkpoints / "florence2").tokenizer
    for text in ("Locate the phrases in the caption: a large red star.", "<loc_7> <and> café 日本"):
        ids = own.encode(text, add_special_tokens=False).ids
        assert ids == theirs(text, add_special_tokens=False).input_ids
    location = florence2.tokens.location_first
    assert [own.id_to_token(location), own.id_to_token(location + 999)] == ["<loc_0>", "<loc_999>"]


@pytest.fixture
def quiet() -> Callable[[str], None]:
    return lambda text: None


@pytest.mark.long
def test_one_half_at_a_time(small_checkpoints: Path, tmp_path: Path, quiet: Callable[[str], None]) -> None:
    repository = tmp_path / "repository"
    export(repository, florence2_checkpoint=str(small_checkpoints / "florence2"), report=quiet)
    assert {str(p.relative_to(repository)) for p in repository.rglob("*.onnx")} == FLORENCE2_FILES
    with pytest.raises(manifest.ManifestError, match="is missing"):
        manifest.read_sam2(repository)
    before = {file: (repository / file).read_bytes() for file in FLORENCE2_FILES}

    export(repository, sam2_checkpoint=str(small_checkpoints / "sam2"), report=quiet)
    assert {
        str(p.relative_to(repository)) for p in repository.rglob("*.onnx")
    } == FLORENCE2_FILES | SAM2_FILES
    assert {file: (repository / file).read_bytes() for file in FLORENCE2_FILES} == before
    assert manifest.read_florence2(repository).files


def test_a_miss_exits_non_zero_and_leaves_nothing(
    small_checkpoints: Path, tmp_path: Path, quiet: Callable[[str], None]
) -> None:
    with pytest.raises(ExportError, match="not the same as transformers") as caught:
        export(
            tmp_path / "new",
            florence2_checkpoint=str(small_checkpoints / "florence2"),
            tolerance=0.0,
            report=quiet,
        )
    assert "logits of florence2/1/decoder.onnx" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def copied(checkpoint: Path, folder: Path, file: str, **changes: object) -> Path:
    """A copy of a checkpoint with fields of one of its JSON files changed."""
    shutil.copytree(checkpoint, folder)
    body = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(body | changes))
    return folder


def test_checkpoints_of_other_shapes(
    small_checkpoints: Path, tmp_path: Path, quiet: Callable[[str], None]
) -> None:
    """Untied head, scaled embeddings, unequal depths, other heads, another picture, weights stored in float16."""
    source, checkpoint = small_checkpoints / "florence2", tmp_path / "odd"
    config = Florence2Config.from_pretrained(source, tie_word_embeddings=False)
    for name, value in {
        "tie_word_embeddings": False,
        "scale_embedding": True,
        "encoder_layers": 1,
        "decoder_layers": 3,
        "decoder_attention_heads": 8,
        "activation_function": "relu",
    }.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(0)
    model = Florence2ForConditionalGeneration(config)
    for parameter in model.model.language_model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(model.lm_head.weight, std=0.3)
    model.half().save_pretrained(checkpoint)
    shutil.copytree(
        source, checkpoint, dirs_exist_ok=True, ignore=shutil.ignore_patterns("config.json", "*.safetensors")
    )
    processor = json.loads((checkpoint / "processor_config.json").read_text())
    processor["image_processor"] |= {"size": {"height": 128, "width": 192}, "image_seq_length": 8 * 12 + 1}
    (checkpoint / "processor_config.json").write_text(json.dumps(processor))

    rows = export(tmp_path / "new", florence2_checkpoint=str(checkpoint), opset=17, report=quiet)
    assert all(row.passed for row in rows)
    exported = manifest.read_florence2(tmp_path / "new")
    assert (exported.image.height, exported.image.width, exported.image_tokens) == (128, 192, 97)
    assert (exported.decoder.layers, exported.decoder.heads, exported.opset) == (3, 8, 17)
    tensors, _ = read_dims((tmp_path / "new" / "florence2" / "config.pbtxt").read_text())
    assert tensors["image_features"] == (1, 97, 128)
    # The prompt and the generated text have tables of their own here, each with the scale.
    language = Florence2ForConditionalGeneration.from_pretrained(
        checkpoint, dtype=torch.float32
    ).model.language_model
    ids = np.array([[0, 5, 399], [7, 7, language.config.vocab_size - 1]])
    tables = embeddings(tmp_path / "new" / "florence2" / "1")
    for table, module in zip(tables, (language.shared, language.decoder.embed_tokens), strict=True):
        np.testing.assert_array_equal(table(ids), module(torch.from_numpy(ids)).detach())
    assert not np.array_equal(tables[0](ids), tables[1](ids))
    assert {file for file in exported.files if file.endswith(".npy")} == {
        f"florence2/1/{EMBEDDING}",
        f"florence2/1/{DECODER_EMBEDDING}",
    }


@pytest.mark.parametrize(
    ("part", "file", "changes", "message"),
    [
        ("florence2", "generation_config.json", {"do_sample": True}, "do_sample"),
        ("florence2", "generation_config.json", {"eos_token_id": [2, 3]}, "eos_token_id names 2 tokens"),
        (
            "florence2",
            "config.json",
            {"model_type": "florence2-microsoft"},
            "'florence2-microsoft' checkpoint",
        ),
        ("sam2", "config.json", {"model_type": "sam"}, "'sam' checkpoint"),
    ],
)
def test_checkpoints_that_cannot_be_served_are_refused(
    small_checkpoints: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    part: str,
    file: str,
    changes: dict[str, object],
    message: str,
) -> None:
    checkpoint = copied(small_checkpoints / part, tmp_path / "checkpoint", file, **changes)
    assert main(["export", f"--{part}", str(checkpoint), "--output", str(tmp_path / "new")]) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


@pytest.mark.parametrize("content", ["empty folder", "no folder", "weights missing"])
def test_what_is_no_checkpoint_is_refused_in_one_line(
    small_checkpoints: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    checkpoint = tmp_path / "checkpoint"
    if content == "empty folder":
        checkpoint.mkdir()
    elif content == "weights missing":
        shutil.copytree(
            small_checkpoints / "sam2", checkpoint, ignore=shutil.ignore_patterns("*.safetensors")
        )
    assert main(["export", "--sam2", str(checkpoint), "--output", str(tmp_path / "new")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if line.startswith("florence2-sam2 export: ")] == said[-1:]
    assert not (tmp_path / "new").exists()


class Doubled(torch.nn.Module):
    """A graph with one weight used twice, and another of equal shape."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Parameter(torch.randn(64, 64))
        self.second = torch.nn.Parameter(torch.randn(64, 64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.first + x @ self.second) @ self.first


def doubled() -> graphs.Graph:
    torch.manual_seed(0)
    tensors = (graphs.Tensor("x", ("batch", 64)),), (graphs.Tensor("y", ("batch", 64)),)
    return graphs.Graph("m/1/model.onnx", Doubled(), *tensors, (torch.randn(2, 64),))


def cases(graph: graphs.Graph) -> list[Case]:
    with torch.no_grad():
        inputs = [torch.randn(batch, 64) for batch in (1, 3)]
        return [Case("", {"x": x.numpy()}, {"y": graph.module(x).numpy()}) for x in inputs]


@pytest.mark.parametrize("limit", [10_000, 10_000_000])
def test_weights_beyond_the_limit_go_beside_the_graph(tmp_path: Path, limit: int) -> None:
    graph = doubled()
    path = tmp_path / "model.onnx"
    graphs.write_graph(graph, path, 18, "fp32", external_data_from_bytes=limit)
    assert (tmp_path / "model.onnx.data").exists() == (limit == 10_000)
    assert all(row.passed for row in check_graph(graph, path, cases(graph), "fp32"))


def test_equal_weights_are_stored_once_and_different_ones_apart(tmp_path: Path) -> None:
    graph = doubled()
    graphs.write_graph(graph, tmp_path / "model.onnx", 18, "fp32")
    model = onnx.load(tmp_path / "model.onnx")
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == model.graph.initializer[0].name:
                copy = model.graph.initializer.add()
                copy.CopyFrom(model.graph.initializer[0])
                copy.name = node.input[index] = f"{name}_of_{node.name}"
    assert len(model.graph.initializer) > 2
    share_equal_initializers(model)
    assert len(model.graph.initializer) == 2
    onnx.save_model(model, tmp_path / "model.onnx")
    assert all(row.passed for row in check_graph(graph, tmp_path / "model.onnx", cases(graph), "fp32"))


def test_a_check_sees_a_wrong_graph(tmp_path: Path) -> None:
    """Not only differing numbers fail: so do an axis written down as constant, and an output that is no number."""
    graph = doubled()
    path = tmp_path / "model.onnx"
    graphs.write_graph(graph, path, 18, "fp32")
    right = cases(graph)
    other = doubled()
    torch.nn.init.ones_(other.module.first)
    assert not all(row.passed for row in check_graph(graph, path, cases(other), "fp32"))
    nothing = [Case("", {"x": right[0].inputs["x"] * float("nan")}, right[0].expected)]
    assert not all(row.passed for row in check_graph(graph, path, nothing, "fp32"))
    frozen = onnx.load(path)
    frozen.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save_model(frozen, path)
    with pytest.raises(ExportError, match="does not run"):
        check_graph(graph, path, right, "fp32")
    path.write_bytes(b"no graph")
    with pytest.raises(ExportError, match="cannot load"):
        check_graph(graph, path, right, "fp32")
