"""The five graphs of a repository, each with what one request feeds it."""

from __future__ import annotations

import functools
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed.fixed_boxes import boxes_for
from bench.speed.pictures import decoded
from bench.speed.work import KERNEL, Work, count, is_node
from florence2_sam2.server import manifest
from florence2_sam2.server.florence2 import Florence2
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.florence2_prompts import Prompts
from florence2_sam2.server.generation.decoder import DECODER, TEXT_ENCODER, Decoder
from florence2_sam2.server.generation.embedding import embeddings
from florence2_sam2.server.onnx_session import open_session, threads_alone
from florence2_sam2.server.preprocess import to_model_frame, to_pixels
from florence2_sam2.server.segment.candidates import (
    Candidate,
    drop_degenerate,
    drop_large,
    open_candidates,
)
from florence2_sam2.server.segment.request import THRESHOLDS

CAPTION, GROUNDING = "<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"
MAPS = ("image_embeddings", "high_res_features_0", "high_res_features_1")

# Models that have a second session for a request that is alone.
SECOND_SESSIONS = ("florence2_vision_encoder", "sam2_image_encoder", "sam2_mask_decoder")

Feeds = dict[str, np.ndarray]


@dataclass(frozen=True)
class Node:
    """A node of a graph as onnxruntime runs it, fused ones under their new names. Seconds of one run."""

    name: str
    kind: str
    seconds: float


@dataclass(frozen=True)
class Component:
    """A graph with its inputs. `runs`: how often one request runs it."""

    name: str
    path: Path
    feeds: Feeds
    runs: int = 1


class Components:
    """A greedy request about `picture`, taken apart. In a process with the server's environment.

    Raises:
        ValueError: no box of the picture reaches SAM2.
    """

    def __init__(self, repository: Path, picture: bytes, fixed_boxes: bool) -> None:
        self._folder = manifest.version_folder(repository, "florence2")
        self._repository = repository
        self._spec = manifest.Florence2.read(self._folder)
        self._sam2 = manifest.read_sam2(repository)
        rgb = decoded(picture)
        height, width = rgb.shape[:2]
        vision = self._leaf("florence2_vision_encoder")
        pixels = {"pixels": to_pixels(rgb, self._spec.image)}
        features = _run(vision, pixels)["image_features"]
        self._write(features, (width, height))
        boxes = boxes_for(self._caption, width, height) if fixed_boxes else self._boxes
        if not boxes:
            raise ValueError("no box of this picture reaches SAM2: take another picture")
        sam2 = self._leaf("sam2_image_encoder")
        sam2_pixels = {"pixels": to_pixels(rgb, self._sam2.image)}
        maps = _run(sam2, sam2_pixels)
        placed = to_model_frame(np.array(boxes, np.float32), width, height, self._sam2.image)
        text_encoder, embedding = self._folder / TEXT_ENCODER, embeddings(self._folder)[0]
        prompts = {
            name: {
                "image_features": features,
                "inputs_embeds": embedding(ids[None]),
                "prompt_lengths": np.array([len(ids)], np.int64),
            }
            for name, ids in (("caption", self._caption_prompt), ("grounding", self._grounding_prompt))
        }
        decoder = self._folder / DECODER
        self.components = [
            Component("vision encoder", vision, pixels),
            Component("text encoder, caption", text_encoder, prompts["caption"]),
            Component(
                "decoder, caption",
                decoder,
                self._step(prompts["caption"], self._caption_tokens),
                self._caption_tokens,
            ),
            Component("text encoder, grounding", text_encoder, prompts["grounding"]),
            Component(
                "decoder, grounding",
                decoder,
                self._step(prompts["grounding"], self._grounding_tokens),
                self._grounding_tokens,
            ),
            Component("SAM2 image encoder", sam2, sam2_pixels),
            Component(
                f"mask decoder, {len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}",
                self._leaf("sam2_mask_decoder"),
                {**maps, "boxes": placed},
            ),
        ]

    def names(self) -> list[tuple[str, int]]:
        """Of the components, with how often a request runs each."""
        return [(part.name, part.runs) for part in self.components]

    def work(self) -> list[Work]:
        """Of one run of each. A step's is that of the mean past: it grows evenly with the past."""
        return [count(part.path, part.feeds) for part in self.components]

    def once(self) -> list[float]:
        """Seconds of one run of each component, whose sessions stay loaded. A decoder's is the mean of all steps of a
        text, on the server's own caches."""
        measured = []
        for part in self.components:
            if part.path.name == DECODER:
                prompt = self._caption_prompt if "caption" in part.name else self._grounding_prompt
                measured.append(self._decode(prompt, part.runs))
                continue
            session = self._session(part.path)
            start = time.perf_counter()
            session.run(None, part.feeds)
            measured.append(time.perf_counter() - start)
        return measured

    def nodes(self, index: int, repeats: int) -> tuple[float, list[Node]]:
        """Seconds of a run of component `index` as it is, and its nodes' times while onnxruntime writes them down."""
        part = self.components[index]
        session = open_session(
            part.path, intra_op_threads=threads_of(part.path), plan_memory=part.path.name == DECODER
        )
        times = []
        for _ in range(repeats + 1):
            start = time.perf_counter()
            session.run(None, part.feeds)
            times.append(time.perf_counter() - start)
        return float(np.median(times[1:])), profiled(part.path, part.feeds, repeats)

    @functools.cache  # noqa: B019 - there is one object, and it lives as long as its process
    def _session(self, path: Path) -> Any:
        return open_session(path, intra_op_threads=threads_of(path))

    @functools.cache  # noqa: B019
    def _decoder(self) -> Decoder:
        return Decoder(self._folder, self._spec, max_rows=1)

    def _leaf(self, model: str) -> Path:
        return manifest.version_folder(self._repository, model) / "model.onnx"

    def _write(self, features: np.ndarray, size: tuple[int, int]) -> None:
        """Both texts as a request generates them: how long they are, and the prompts."""
        florence2 = Florence2(self._folder, self._spec, max_rows=1)
        greedy = Florence2Options(num_beams=1)
        try:
            caption = florence2.submit(features, CAPTION, "", size, greedy).result()
            self._caption = caption.text or "a thing"
            grounding = florence2.submit(features, GROUNDING, self._caption, size, greedy).result()
        finally:
            florence2.close()
        candidates = [
            Candidate(region.label, tuple(map(float, region.box)), reason=region.dropped)
            for region in grounding.regions
            if region.box is not None
        ]
        drop_degenerate(candidates, *size)
        drop_large(candidates, *size, THRESHOLDS["area_threshold"])
        self._boxes = [candidate.box for candidate in open_candidates(candidates)]
        self._caption_tokens, self._grounding_tokens = caption.steps, grounding.steps
        prompts = Prompts(self._folder, self._spec)
        self._caption_prompt = prompts.encode(CAPTION).ids
        self._grounding_prompt = prompts.encode(GROUNDING, self._caption).ids
        self._features = features

    def _step(self, prompt: Feeds, tokens: int) -> Feeds:
        """One step in the middle of a text of `tokens`."""
        shape = self._spec.decoder
        past = (tokens - 1) // 2
        cross = _run(self._folder / TEXT_ENCODER, prompt)
        length = next(iter(cross.values())).shape[2]
        empty = np.zeros((1, shape.heads, past, shape.head_dim), np.float32)
        caches = {f"self_{kind}_{layer}": empty for layer in range(shape.layers) for kind in ("key", "value")}
        return {
            "inputs_embeds": embeddings(self._folder)[1]([[self._spec.tokens.decoder_start]]),
            "past_lengths": np.array([past], np.int64),
            "encoder_lengths": np.array([length], np.int64),
            "rows": np.zeros((1, 1), np.int64),
            "places": np.zeros(1, np.int64),
            **caches,
            **cross,
        }

    def _decode(self, prompt: np.ndarray, tokens: int) -> float:
        """Mean seconds of a step of a text."""
        decoder = self._decoder()
        row = decoder.add(decoder.encode(self._features[0], prompt))
        token, spent = self._spec.tokens.decoder_start, 0.0
        for _ in range(tokens):
            start = time.perf_counter()
            logits = decoder.step([token])
            spent += time.perf_counter() - start
            token = int(logits[0].argmax())
        decoder.remove([row])
        return spent / tokens


def threads_of(path: Path) -> int | None:
    """Of a graph's session as the server runs it for a request that is alone (of the mask decoder's for several boxes);
    None: as ever."""
    small = path.name == TEXT_ENCODER or path.parents[1].name in SECOND_SESSIONS
    return (threads_alone(path) or None) if small else None


def profiled(path: Path, feeds: Feeds, repeats: int) -> list[Node]:
    """The nodes in the order in which they run, each with the median of its times."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(
            path,
            intra_op_threads=threads_of(path),
            plan_memory=path.name == DECODER,
            profile=Path(folder) / "run",
        )
        for _ in range(repeats + 1):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        if is_node(event):
            place = event["name"].removesuffix(KERNEL), event["args"]["op_name"]
            times.setdefault(place, []).append(event["dur"] / 1e6)
    # The first run warms up. A node runs once in each.
    return [Node(name, kind, float(np.median(values[1:]))) for (name, kind), values in times.items()]


def _run(path: Path, feeds: Feeds) -> dict[str, Any]:
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))
