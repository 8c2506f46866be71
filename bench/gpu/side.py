"""One repository's graphs on one execution provider, in a process of its own: what they give, where, and how fast."""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.speed.components import CAPTION, GROUNDING, Component, Components
from bench.speed.pictures import decoded
from bench.speed.work import is_node
from florence2_sam2.server import manifest
from florence2_sam2.server.florence2 import Florence2
from florence2_sam2.server.florence2_options import Florence2Options
from florence2_sam2.server.generation.device_memory import run
from florence2_sam2.server.onnx_session import device_of, open_session
from florence2_sam2.server.preprocess import to_pixels

ENCODERS = {"vision encoder": "florence2_vision_encoder", "SAM2 image encoder": "sam2_image_encoder"}
FEATURES = "features"


class Side:
    """See the module. The environment says which provider."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository

    def keep(self, picture: bytes, fixed_boxes: bool, folder: Path) -> None:
        """Write each graph's inputs for a greedy request about `picture`, and what it gives, into `folder`."""
        parts = Components(self._repository, picture, fixed_boxes).components
        for index, part in enumerate(parts):
            outputs = _run(part.path, part.feeds)
            np.savez(folder / f"{index}.npz", **_marked("in", part.feeds), **_marked("out", outputs))
        about = [{"name": part.name, "path": str(part.path.relative_to(self._repository))} for part in parts]
        (folder / "about.json").write_text(json.dumps(about))

    def errors(self, folder: Path) -> list[tuple[str, str, float, float]]:
        """With the inputs of `keep`: component, output, largest difference from what was kept, largest value."""
        found = []
        for part, expected in _kept(folder, self._repository):
            for name, value in _run(part.path, part.feeds).items():
                error = float(np.abs(value - expected[name]).max(initial=0.0))
                found.append((part.name, name, error, float(np.abs(expected[name]).max(initial=0.0))))
        return found

    def placed(self, folder: Path) -> list[tuple[str, dict[str, dict[str, int]]]]:
        """With the inputs of `keep`: for each component and provider how many nodes of which operator run there."""
        return [(part.name, _providers(part)) for part, _ in _kept(folder, self._repository)]

    def text(self, picture: bytes, task: str, text: str, beams: int, tokens: int | None) -> list[int]:
        """Token ids of Florence-2's answer."""
        florence2, features, size = self._florence2(picture, beams)
        try:
            options = Florence2Options(num_beams=beams, max_new_tokens=tokens)
            answer = florence2.submit(features, task, text, size, options).result()
            return [int(token) for token in answer.token_ids]
        finally:
            florence2.close()

    def encoder(self, model: str, batch: int, repeats: int) -> list[float]:
        """Seconds of runs of an encoder, its input and its outputs in the device's memory."""
        import onnxruntime

        session = open_session(manifest.version_folder(self._repository, model) / "model.onnx")
        device = device_of(session)
        (node,) = session.get_inputs()
        pixels = np.random.default_rng(0).integers(256, size=(batch, *node.shape[1:]), dtype=np.uint8)
        held = onnxruntime.OrtValue.ortvalue_from_numpy(pixels, device, 0)
        binding = session.io_binding()
        binding.bind_ortvalue_input(node.name, held)
        for output in session.get_outputs():
            binding.bind_output(output.name, device)
        seconds = []
        for _ in range(repeats + 2):  # the first ones allocate and choose kernels
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            seconds.append(time.perf_counter() - start)
        return seconds[2:]

    def _florence2(self, picture: bytes, beams: int) -> tuple[Florence2, Any, tuple[int, int]]:
        """With features that the vision encoder has left in the device's memory."""
        folder = manifest.version_folder(self._repository, "florence2")
        spec = manifest.Florence2.read(folder)
        rgb = decoded(picture)
        vision = open_session(
            manifest.version_folder(self._repository, "florence2_vision_encoder") / "model.onnx"
        )
        binding = vision.io_binding()
        binding.bind_cpu_input("pixels", to_pixels(rgb, spec.image))
        binding.bind_output("image_features", device_of(vision))
        run(vision, binding)
        (features,) = binding.get_outputs()
        return Florence2(folder, spec, max_rows=beams), features, (rgb.shape[1], rgb.shape[0])


def _run(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    session = open_session(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _marked(mark: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {f"{mark}:{name}": array for name, array in arrays.items()}


def _kept(folder: Path, repository: Path) -> list[tuple[Component, dict[str, Any]]]:
    """What `keep` wrote: components whose graphs are those of `repository`, and what was computed there."""
    found = []
    for index, about in enumerate(json.loads((folder / "about.json").read_text())):
        with np.load(folder / f"{index}.npz") as file:
            arrays = {name: file[name] for name in file.files}
        feeds = {name[3:]: array for name, array in arrays.items() if name.startswith("in:")}
        outputs = {name[4:]: array for name, array in arrays.items() if name.startswith("out:")}
        found.append((Component(about["name"], repository / about["path"], feeds), outputs))
    return found


def _providers(part: Component) -> dict[str, dict[str, int]]:
    """onnxruntime's profile says for each node where it ran. (Its times are no measure of a GPU: they end when a kernel
    has been launched.)"""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(part.path, profile=Path(folder) / "run")
        session.run(None, part.feeds)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes: dict[str, Counter[str]] = defaultdict(Counter)
    for event in events:
        if is_node(event):
            nodes[event["args"].get("provider", "unknown")][event["args"]["op_name"]] += 1
    return {provider: dict(operators) for provider, operators in nodes.items()}


__all__ = ["CAPTION", "ENCODERS", "GROUNDING", "Side"]
