"""Work of the graphs of an export, node by node, as `work.json` keeps it: counted in one run of each on a CPU.

The nodes are those that onnxruntime makes of a graph for any hardware (its extended optimizations), each with the
bytes of all it reads and writes: on a GPU a node's result goes to memory and comes back from there.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed.work import KERNEL, flops_of, is_node, weight_bytes
from florence2_sam2.server import manifest
from florence2_sam2.server.florence2_prompts import Prompts
from florence2_sam2.server.generation.decoder import DECODER, TEXT_ENCODER

CAPTION = "<MORE_DETAILED_CAPTION>"
TOKENS = 100  # of the caption, and of the grounding; as scripts/bench --full
MORE = 94  # tokens that a prompt with such a caption in it is longer, counted there
BOXES = 8
FLOATS = {"float": 4, "float16": 2, "double": 8}
# Nodes that compute nothing and move nothing: their result is their input.
VIEWS = frozenset({"Flatten", "Identity", "Reshape", "Shape", "Squeeze", "Unsqueeze"})
# Nodes that read no more of their first input than they write.
PICKING = frozenset({"Expand", "Gather", "Slice", "Split"})

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Counted:
    """One run. `kinds`: nodes, operations and bytes by kind of node. `weights`: bytes of them; `alive`: of inner
    values that are needed at the same moment, at most."""

    kinds: dict[str, tuple[int, float, float]]
    weights: float
    alive: float


def repository_work(florence2: Path, sam2: Path) -> dict[str, Any]:
    """Of a greedy request with two texts of TOKENS tokens and BOXES boxes, as JSON. The folders are exports: of
    Florence-2, and of SAM2, in float32."""
    folder = manifest.version_folder(florence2, "florence2")
    spec = manifest.Florence2.read(folder)
    side = manifest.read_sam2(sam2).image
    caption = len(Prompts(folder, spec).encode(CAPTION).ids)
    random = np.random.default_rng(0)
    width, image = spec.feature_dim, spec.image

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    def leaf(root: Path, model: str) -> Path:
        return manifest.version_folder(root, model) / "model.onnx"

    def prompt(length: int) -> Feeds:
        features, tokens = normal(1, spec.image_tokens, width), normal(1, length, width)
        return {"image_features": features, "inputs_embeds": tokens, "prompt_lengths": np.array([length])}

    heads, size, layers = spec.decoder.heads, spec.decoder.head_dim, spec.decoder.layers

    def step(length: int) -> Feeds:
        positions = {"self": (TOKENS - 1) // 2, "cross": spec.image_tokens + length}
        caches = {
            f"{which}_{kind}_{layer}": normal(1, heads, count, size)
            for which, count in positions.items()
            for kind in ("key", "value")
            for layer in range(layers)
        }
        lengths = {
            "past_lengths": np.array([positions["self"]]),
            "encoder_lengths": np.array([positions["cross"]]),
        }
        places = {"rows": np.zeros((1, 1), np.int64), "places": np.zeros(1, np.int64)}
        return {"inputs_embeds": normal(1, 1, width), **lengths, **places, **caches}

    masks = leaf(sam2, "sam2_mask_decoder")
    maps = {name: normal(*shape) for name, shape in _fixed_inputs(masks).items()}
    corners = np.tile(np.array([[0.2, 0.2, 0.7, 0.7]], np.float32) * side.height, (BOXES, 1))
    seen = {"pixels": np.zeros((1, 3, image.height, image.width), np.uint8)}
    framed = {"pixels": np.zeros((1, 3, side.height, side.width), np.uint8)}
    parts: list[tuple[str, Path, Feeds, int]] = [
        ("vision encoder", leaf(florence2, "florence2_vision_encoder"), seen, 1),
        ("text encoder, caption", folder / TEXT_ENCODER, prompt(caption), 1),
        ("decoder, caption", folder / DECODER, step(caption), TOKENS),
        ("text encoder, grounding", folder / TEXT_ENCODER, prompt(caption + MORE), 1),
        ("decoder, grounding", folder / DECODER, step(caption + MORE), TOKENS),
        ("SAM2 image encoder", leaf(sam2, "sam2_image_encoder"), framed, 1),
        (f"mask decoder, {BOXES} boxes", masks, {**maps, "boxes": corners}, 1),
    ]  # fmt: skip
    components = []
    for name, path, feeds, runs in parts:
        one = count(path, feeds)
        kinds = {kind: list(values) for kind, values in sorted(one.kinds.items())}
        moved = float(sum(array.nbytes for array in feeds.values()))
        components.append(
            {
                "name": name,
                "runs": runs,
                "weights": one.weights,
                "alive": one.alive,
                "inputs": moved,
                "kinds": kinds,
            }
        )
    position = 2.0 * layers * heads * size * 4
    return {
        "tokens": TOKENS,
        "boxes": BOXES,
        "position_bytes": position,  # keys and values of one token in all layers, float32
        "positions": {
            "caption": spec.image_tokens + caption,
            "grounding": spec.image_tokens + caption + MORE,
        },
        "vocabulary": spec.tokens.vocabulary,
        "table_bytes": float((folder / "embedding.npy").stat().st_size),
        "components": components,
    }


def _fixed_inputs(path: Path) -> dict[str, list[int]]:
    """Shapes of the inputs of a graph, those left out that have no fixed one."""
    import onnx

    found = {}
    for told in onnx.load(str(path), load_external_data=False).graph.input:
        sizes = [dimension.dim_value for dimension in told.type.tensor_type.shape.dim]
        if all(sizes):
            found[told.name] = sizes
    return found


def count(path: Path, feeds: Mapping[str, np.ndarray]) -> Counted:
    """One run of an ONNX file in float32.

    Raises:
        CannotCount: it has nodes whose operations are not known (`bench/speed/work.py`).
    """
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder) / "run")
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        del session
        optimized = onnx.load(options.optimized_model_filepath)
    kinds: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    nodes = {node.name: node for node in optimized.graph.node}
    ran = [(nodes[event["name"].removesuffix(KERNEL)], event["args"]) for event in events if is_node(event)]
    for node, told in ran:
        inputs, outputs = told["input_type_shape"], told["output_type_shape"]
        moved = _moved(node.op_type, inputs, outputs)
        if not moved:
            continue
        kind = kinds[node.op_type]
        kind[0] += 1
        kind[1] += flops_of(node.op_type, _shapes(inputs), _shapes(outputs))
        kind[2] += moved
    weights = weight_bytes(onnx.load(str(path)))
    return Counted({kind: (int(n), f, b) for kind, (n, f, b) in kinds.items()}, weights, _alive(ran))


def _moved(kind: str, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> float:
    """Bytes of the floats that a node reads and writes; 0 for one that has none, or is a view."""
    if kind in VIEWS:
        return 0.0
    written = sum(map(_float_bytes, outputs))
    return written + (
        min(written, sum(map(_float_bytes, inputs))) if kind in PICKING else sum(map(_float_bytes, inputs))
    )


def _alive(ran: Sequence[tuple[Any, Mapping[str, Any]]]) -> float:
    """Most bytes of results that are needed at the same moment, when nodes run in this order. Views are their
    inputs."""
    of: dict[str, str] = {}  # the value that a view shows
    last: dict[str, int] = {}
    for at, (node, _) in enumerate(ran):
        if node.op_type in VIEWS and node.input:
            of.update(dict.fromkeys(node.output, of.get(node.input[0], node.input[0])))
        for name in node.input:
            last[of.get(name, name)] = at
    most, now, ends = 0.0, 0.0, defaultdict(list)
    for at, (node, told) in enumerate(ran):
        if node.op_type not in VIEWS:
            for name, described in zip(filter(None, node.output), told["output_type_shape"], strict=False):
                size = _float_bytes(described)
                now += size
                ends[max(last.get(name, len(ran)), at)].append(size)
        most = max(most, now)
        now -= sum(ends.pop(at, []))
    return most


def _float_bytes(described: Mapping[str, Sequence[int]]) -> float:
    return float(sum(FLOATS.get(kind, 0) * math.prod(shape) for kind, shape in described.items()))


def _shapes(described: Sequence[Mapping[str, Sequence[int]]]) -> list[Sequence[int]]:
    return [next(iter(one.values())) if one else [] for one in described]
