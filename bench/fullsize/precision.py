"""An fp16 export beside the fp32 export of the same checkpoints, graph by graph, each graph fed the fp32 side's values.

    python -m bench.fullsize.precision FP32_REPOSITORY FP16_REPOSITORY PICTURE REPORT.json

The fp16 graphs are computed as hardware with float16 would (`florence2_sam2.export.rounding`); a CPU runs them in
float32.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.fullsize.serving import ious
from florence2_sam2.export.graphs import computed
from florence2_sam2.server import manifest
from florence2_sam2.server.florence2_prompts import Prompts
from florence2_sam2.server.generation.embedding import embeddings
from florence2_sam2.server.onnx_session import CPU, open_session
from florence2_sam2.server.preprocess import to_model_frame, to_pixels

Array = NDArray[Any]

STEPS = 24  # tokens decoded one after the other
BOXES = 12


@dataclass(frozen=True)
class Row:
    """One output. `relative`: largest error over the largest magnitude. `agreement` says what users see of it."""

    graph: str
    output: str
    max_abs: float
    relative: float
    agreement: str = ""


def compare(fp32: Path, fp16: Path, rgb: NDArray[np.uint8], seed: int = 0) -> list[Row]:
    """All five graphs of both repositories, on one picture, uint8 [H,W,3]."""
    random = np.random.default_rng(seed)
    rows, features = _vision(fp32, fp16, rgb)
    text_rows, cross = _text_encoder(fp32, fp16, features)
    rows += text_rows + _decoder(fp32, fp16, cross)
    map_rows, maps = _sam2_encoder(fp32, fp16, rgb)
    return rows + map_rows + _mask_decoder(fp32, fp16, maps, rgb, random)


def _vision(fp32: Path, fp16: Path, rgb: NDArray[np.uint8]) -> tuple[list[Row], Array]:
    file = "florence2_vision_encoder/1/model.onnx"
    pixels = to_pixels(rgb, manifest.read_florence2(fp32).image)
    wide, narrow = _both(fp32, fp16, file, {"pixels": pixels})
    cosine = _cosine(wide["image_features"], narrow["image_features"])
    row = _row(file, "image_features", wide, narrow, f"cosine {cosine:.6f}")
    return [row], wide["image_features"]


def _text_encoder(fp32: Path, fp16: Path, features: Array) -> tuple[list[Row], dict[str, Array]]:
    file = "florence2/1/text_encoder.onnx"
    spec = manifest.read_florence2(fp32)
    ids = Prompts(fp32 / "florence2" / "1", spec).encode("<MORE_DETAILED_CAPTION>").ids
    embeds, narrow_embeds = (embeddings(side / "florence2" / "1")[0](ids)[None] for side in (fp32, fp16))
    feeds = {
        "image_features": features,
        "inputs_embeds": embeds,
        "prompt_lengths": np.array([len(ids)], np.int64),
    }
    wide, narrow = _both(fp32, fp16, file, feeds, inputs_embeds=narrow_embeds)
    return [_family_row(file, f"cross_{kind}", wide, narrow) for kind in ("key", "value")], wide


def _decoder(fp32: Path, fp16: Path, cross: dict[str, Array]) -> list[Row]:
    """Greedy decoding; both sides see the tokens and the cache of the fp32 side."""
    file = "florence2/1/decoder.onnx"
    spec = manifest.read_florence2(fp32)
    shape = (1, spec.decoder.heads, 0, spec.decoder.head_dim)
    cache = {
        f"self_{kind}_{layer}": np.zeros(shape, np.float32)
        for layer in range(spec.decoder.layers)
        for kind in ("key", "value")
    }
    token, equal, errors = spec.tokens.decoder_start, 0, []
    length = next(iter(cross.values())).shape[2]
    tables = [embeddings(side / "florence2" / "1")[1] for side in (fp32, fp16)]
    with _sessions(fp32, fp16, file) as sessions:
        for step in range(STEPS):
            feeds = {
                "past_lengths": np.array([step], np.int64),
                "encoder_lengths": np.array([length], np.int64),
                "rows": np.zeros((1, 1), np.int64),
                "places": np.zeros(1, np.int64),
                **cache,
                **cross,
            }
            wide, narrow = (
                _run(session, {**feeds, "inputs_embeds": table([[token]])})
                for session, table in zip(sessions, tables, strict=True)
            )
            errors.append(_row(file, "logits", wide, narrow))
            token = int(wide["logits"][0].argmax())
            equal += token == int(narrow["logits"][0].argmax())
            for name in cache:
                new = wide[name.replace("self", "new")]
                cache[name] = np.concatenate([cache[name], new], axis=2)
    agreement = f"best token equal in {equal} of {STEPS} steps"
    worst = (max(row.max_abs for row in errors), max(row.relative for row in errors))
    return [
        Row(file, "logits", *worst, agreement),
        *(_family_row(file, f"new_{kind}", wide, narrow) for kind in ("key", "value")),
    ]


def _sam2_encoder(fp32: Path, fp16: Path, rgb: NDArray[np.uint8]) -> tuple[list[Row], dict[str, Array]]:
    file = "sam2_image_encoder/1/model.onnx"
    pixels = to_pixels(rgb, manifest.read_sam2(fp32).image)
    wide, narrow = _both(fp32, fp16, file, {"pixels": pixels})
    return [
        _row(file, name, wide, narrow, f"cosine {_cosine(wide[name], narrow[name]):.6f}") for name in wide
    ], wide


def _mask_decoder(
    fp32: Path, fp16: Path, maps: dict[str, Array], rgb: NDArray[np.uint8], random: np.random.Generator
) -> list[Row]:
    """A box may be answered with another of the four masks where their scores or stability are nearly equal: those
    are counted, and the errors are of the others. Rounding moves no mask as far, nor a score (`export` itself checks
    all four candidates)."""
    file = "sam2_mask_decoder/1/model.onnx"
    height, width = rgb.shape[:2]
    corners = random.uniform(0, 1, (BOXES, 2, 2)) * [width, height]
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1).astype(np.float32)
    placed = to_model_frame(boxes, width, height, manifest.read_sam2(fp32).image)
    wide, narrow = _both(fp32, fp16, file, {**maps, "boxes": placed})
    masks, others = (side["mask_logits"] > 0 for side in (wide, narrow))
    iou = np.array(ious(masks, others))
    same = (np.abs(wide["scores"] - narrow["scores"]) < 0.01) & (iou > 0.9)
    chosen = [{name: value[same] for name, value in side.items()} for side in (wide, narrow)]
    told = f"IoU of masks: smallest {iou[same].min():.4f}, mean {iou[same].mean():.4f}"
    if not same.all():
        told += f"; {int((~same).sum())} of {BOXES} boxes answered with another candidate"
    return [_row(file, "mask_logits", *chosen, told), _row(file, "scores", *chosen)]


def _both(
    fp32: Path, fp16: Path, file: str, feeds: Mapping[str, Array], **of_fp16: Array
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Outputs of both files; `of_fp16` replaces feeds of the second one."""
    with _sessions(fp32, fp16, file) as (wide, narrow):
        return _run(wide, feeds), _run(narrow, {**feeds, **of_fp16})


@contextmanager
def _sessions(fp32: Path, fp16: Path, file: str) -> Iterator[tuple[Any, Any]]:
    with computed(fp16 / file, "fp16") as narrow:
        yield open_session(fp32 / file, providers=[CPU]), open_session(narrow, providers=[CPU])


def _run(session: Any, feeds: Mapping[str, Array]) -> dict[str, Array]:
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _row(
    file: str, output: str, wide: Mapping[str, Array], narrow: Mapping[str, Array], agreement: str = ""
) -> Row:
    error = np.abs(wide[output].astype(np.float64) - narrow[output]).max()
    return Row(file, output, float(error), float(error / np.abs(wide[output]).max()), agreement)


def _family_row(file: str, family: str, wide: Mapping[str, Array], narrow: Mapping[str, Array]) -> Row:
    rows = [_row(file, name, wide, narrow) for name in wide if name.startswith(f"{family}_")]
    return Row(file, family, max(row.max_abs for row in rows), max(row.relative for row in rows))


def _cosine(one: Array, other: Array) -> float:
    a, b = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def main(arguments: list[str]) -> None:
    fp32, fp16, picture, report = map(Path, arguments)
    rows = compare(fp32, fp16, np.asarray(Image.open(picture).convert("RGB")))
    report.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
