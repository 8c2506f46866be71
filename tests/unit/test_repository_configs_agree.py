"""The repository's configs agree: with each other, with the graphs, and with the manifests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from florence2_sam2.export.configs import read_profile
from florence2_sam2.server import manifest
from florence2_sam2.server.container.options import MODEL_CONFIGS
from florence2_sam2.server.manifest import packaged_repository
from florence2_sam2.server.segment.pipeline import BOXES_AT_ONCE

REPOSITORY = packaged_repository()
LEAVES = ("florence2_vision_encoder", "sam2_image_encoder", "sam2_mask_decoder")
PYTHON_MODELS = (
    "segment",
    "segment_http",
    "segment_stream",
    "florence2",
    "sam2_preprocess",
    "sam2_postprocess",
)
FORMS = (
    "config.pbtxt",
    "configs/embedded.pbtxt",
    "configs/tensorrt.pbtxt",
    "configs/onnxruntime_tensorrt.pbtxt",
)
# What Triton's onnxruntime backend takes for TensorRT (the table of parameters in the README.md of
# triton-inference-server/onnxruntime_backend): it refuses a model with any other.
TENSORRT_PARAMETERS = {
    "max_workspace_size_bytes",
    "precision_mode",
    "trt_auxiliary_streams",
    "trt_builder_optimization_level",
    "trt_context_memory_sharing_enable",
    "trt_cuda_graph_enable",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_force_timing_cache",
    "trt_layer_norm_fp32_fallback",
    "trt_max_partition_iterations",
    "trt_min_subgraph_size",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
}
ONNX_TYPES = {
    "tensor(float)": model_config_pb2.TYPE_FP32,
    "tensor(float16)": model_config_pb2.TYPE_FP16,
    "tensor(uint8)": model_config_pb2.TYPE_UINT8,
}


def parse(model: str, form: str = "config.pbtxt") -> Any:
    text = (REPOSITORY / model / form).read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def tensors(rows: Any) -> dict[str, tuple[int, tuple[int, ...]]]:
    return {row.name: (row.data_type, tuple(row.dims)) for row in rows}


def all_configs() -> list[Path]:
    return sorted(REPOSITORY.glob("*/config.pbtxt")) + sorted(REPOSITORY.glob("*/configs/*.pbtxt"))


def test_the_repository_holds_these_models_and_no_other() -> None:
    models = {path.parent.name for path in REPOSITORY.glob("*/config.pbtxt")}
    assert models == {*LEAVES, *PYTHON_MODELS, "sam2"}


@pytest.mark.parametrize("path", all_configs(), ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_a_config_parses_and_is_explicit(path: Path) -> None:
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    assert config.name == path.relative_to(REPOSITORY).parts[0]
    assert config.backend or config.platform
    assert config.input
    assert config.output
    assert config.version_policy.WhichOneof("policy_choice") == "latest"
    assert config.platform == "ensemble" or len(config.instance_group) == 1


@pytest.mark.parametrize("leaf", LEAVES)
def test_the_forms_of_a_leaf_have_the_same_tensors(leaf: str) -> None:
    first, *others = (parse(leaf, form) for form in FORMS)
    for other in others:
        assert list(tensors(other.input).items()) == list(tensors(first.input).items())
        assert list(tensors(other.output).items()) == list(tensors(first.output).items())
        assert other.max_batch_size == first.max_batch_size
    kinds = [config.backend or config.platform for config in (first, *others)]
    assert kinds == ["onnxruntime", "python", "tensorrt_plan", "onnxruntime"]


def test_every_form_can_be_asked_for() -> None:
    names = {path.stem for path in REPOSITORY.glob("*/configs/*.pbtxt")}
    assert {"onnxruntime", *names} == set(MODEL_CONFIGS)
    for leaf in LEAVES:
        assert {path.name for path in (REPOSITORY / leaf / "configs").iterdir()} == {
            f"{name}.pbtxt" for name in names
        }


@pytest.mark.parametrize("leaf", LEAVES)
def test_tensorrt_is_told_what_the_backend_knows(leaf: str) -> None:
    config = parse(leaf, "configs/onnxruntime_tensorrt.pbtxt")
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert set(accelerator.parameters) <= TENSORRT_PARAMETERS
    # TensorRT 11 has no such switch: precision is the graph's.
    assert "precision_mode" not in accelerator.parameters
    assert accelerator.parameters["trt_engine_cache_enable"] == "1"
    # onnxruntime makes the last folder of the path only.
    assert Path(accelerator.parameters["trt_engine_cache_path"]).parent == Path("/tmp")
    assert accelerator.parameters["trt_engine_cache_prefix"] == leaf
    # Without a GPU it must not run on the CPU in silence.
    assert [group.kind for group in config.instance_group] == [model_config_pb2.ModelInstanceGroup.KIND_GPU]


@pytest.mark.parametrize("leaf", LEAVES)
def test_tensorrts_shapes_are_those_that_can_come(leaf: str) -> None:
    config = parse(leaf, "configs/onnxruntime_tensorrt.pbtxt")
    least, usual, most = (read_profile(REPOSITORY / leaf)[which] for which in ("min", "opt", "max"))
    declared = {row.name: list(row.dims) for row in config.input}
    assert set(least) == set(usual) == set(most) == set(declared)
    for name, dims in declared.items():
        axes = [-1, *dims] if config.max_batch_size else dims
        assert len(least[name]) == len(axes)
        for axis, small, middle, large in zip(axes, least[name], usual[name], most[name], strict=True):
            assert small <= middle <= large
            assert (small, large) == (axis, axis) if axis != -1 else small == 1 < large
    if config.max_batch_size:
        assert most[config.input[0].name][0] == config.max_batch_size
    else:
        assert most["boxes"][0] >= BOXES_AT_ONCE
        assert usual["boxes"][0] == config.model_warmup[0].inputs["boxes"].dims[0]


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("form", FORMS)
def test_a_leaf_warms_up_with_inputs_of_its_own_shape(leaf: str, form: str) -> None:
    config = parse(leaf, form)
    assert config.model_warmup
    for warmup in config.model_warmup:
        assert set(warmup.inputs) == {row.name for row in config.input}
        assert 1 <= warmup.batch_size <= max(1, config.max_batch_size)
        for row in config.input:
            given = warmup.inputs[row.name]
            assert given.data_type == row.data_type
            assert len(given.dims) == len(row.dims)
            assert all(want in (-1, have) for want, have in zip(row.dims, given.dims, strict=True))


@pytest.mark.parametrize("leaf", LEAVES)
def test_a_leaf_has_the_tensors_of_its_graph(leaf: str) -> None:
    config = parse(leaf)
    graph = onnxruntime.InferenceSession(str(REPOSITORY / leaf / "1" / "model.onnx"))
    for rows, nodes in ((config.input, graph.get_inputs()), (config.output, graph.get_outputs())):
        assert {row.name for row in rows} == {node.name for node in nodes}
        shapes = {node.name: (ONNX_TYPES[node.type], node.shape) for node in nodes}
        for row in rows:
            data_type, shape = shapes[row.name]
            batch = [-1] if config.max_batch_size else []
            want = batch + list(row.dims)
            assert data_type == row.data_type
            # A symbolic length in the graph is a string, or None; a graph may also know less than the config.
            assert [length if isinstance(length, int) else -1 for length in shape] == want, row.name


def test_the_sizes_are_the_manifests() -> None:
    florence2, sam2 = manifest.read_florence2(REPOSITORY), manifest.read_sam2(REPOSITORY)
    features = [florence2.image_tokens, florence2.feature_dim]
    vision = parse("florence2_vision_encoder")
    assert list(vision.input[0].dims) == [3, florence2.image.height, florence2.image.width]
    assert list(vision.output[0].dims) == features
    assert tensors(parse("florence2").input)["image_features"][1] == (1, *features)
    frame = (3, sam2.image.height, sam2.image.width)
    assert tensors(parse("sam2_image_encoder").input)["pixels"][1] == frame
    assert tensors(parse("sam2_preprocess").output)["pixels"][1] == (1, *frame)
    logits = (-1, sam2.mask_size, sam2.mask_size)
    assert tensors(parse("sam2_mask_decoder").output)["mask_logits"][1] == logits
    assert tensors(parse("sam2_postprocess").input)["mask_logits"][1] == logits


def test_the_ensemble_hands_on_tensors_of_the_same_kind() -> None:
    config = parse("sam2")
    known = tensors(config.input)
    for step in config.ensemble_scheduling.step:
        model = parse(step.model_name)
        batch = (1,) if model.max_batch_size else ()
        inputs, outputs = tensors(model.input), tensors(model.output)
        assert set(step.input_map) == set(inputs)
        for name, source in step.input_map.items():
            data_type, dims = inputs[name]
            assert known[source] == (data_type, batch + dims), f"{step.model_name}.{name}"
        for name, target in step.output_map.items():
            data_type, dims = outputs[name]
            known[target] = (data_type, batch + dims)
    for name, kind in tensors(config.output).items():
        assert known[name] == kind


def test_every_input_of_the_models_that_users_call_is_optional() -> None:
    for model in ("segment", "segment_http", "segment_stream", "florence2"):
        assert all(row.optional for row in parse(model).input)


def test_what_arrives_together_is_batched_only_where_shapes_are_fixed() -> None:
    for path in all_configs():
        config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
        if config.HasField("dynamic_batching"):
            assert config.max_batch_size > 1
            assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
        if any(-1 in row.dims for row in (*config.input, *config.output)):
            assert config.max_batch_size == 0
