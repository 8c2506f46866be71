"""The whole of `florence2-sam2 export`: load, write, check, set the configs, and put the repository in place."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch

from florence2_sam2 import __version__
from florence2_sam2.export import (
    checkpoints,
    checks,
    choice,
    configs,
    embedding,
    florence2,
    florence2_checks,
    florence2_facts,
    repository,
    sam2,
    sam2_checks,
    sam2_facts,
    tensorrt,
)
from florence2_sam2.export.checks import Case, Row
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.graphs import (
    Attention,
    DecoderWeights,
    Form,
    Graph,
    Precision,
    computed,
    write_graph,
)
from florence2_sam2.server.manifest import AttentionForm, Exported, external_data

# LayerNormalization is one operator from 17 on; the highest that the TorchScript exporter writes is 20. 18 is known to
# every onnxruntime from 1.14 on and to TensorRT 10.
OPSETS = range(17, 21)
DEFAULT_OPSET = 18

Report = Callable[[str], None]


def export(
    output: Path,
    florence2_checkpoint: str | None = None,
    sam2_checkpoint: str | None = None,
    precision: Precision = "fp32",
    decoder_weights: DecoderWeights = "float",
    opset: int = DEFAULT_OPSET,
    tolerance: float | None = None,
    attention: Attention | None = None,
    plans: bool = False,
    report: Report = print,
) -> list[Row]:
    """Write a model repository, or one half of it, to `output`.

    A checkpoint is a folder or a hub id; at least one is given. With `decoder_weights` "int8" Florence-2's text decoder
    gets 8-bit weights and computes in float32, whatever the precision of the others. `tolerance` replaces the allowed
    error of every output, as a fraction of its scale. Without `attention` each float32 encoder gets the form that runs
    faster here; float16 has the parts. With `plans` TensorRT builds a plan of each leaf model on the GPU that is here;
    attention then is in parts. Returns the parity table.

    Raises:
        ExportError: a checkpoint cannot be served as it is, `output` is something else's, or a check failed. Nothing
            is left behind, and an existing `output` is untouched.
    """
    if florence2_checkpoint is None and sam2_checkpoint is None:
        raise ExportError("nothing to export: give --florence2, --sam2 or both")
    if florence2_checkpoint is None and decoder_weights == "int8":
        raise ExportError(
            "--decoder-weights int8 is Florence-2's: without --florence2 there is no such decoder"
        )
    if plans and attention == "fused":
        raise ExportError("--tensorrt needs --attention parts: TensorRT does not know the fused operator")
    repository.require_usable(output)
    builder = tensorrt.find_builder() if plans else None
    if plans:
        attention = "parts"
    job = _Job(precision, decoder_weights, opset, tolerance, attention, report)
    with repository.staged(output) as stage:
        if florence2_checkpoint is not None:
            job.florence2(florence2_checkpoint, stage)
        if sam2_checkpoint is not None:
            job.sam2(sam2_checkpoint, stage)
        report(checks.table(job.rows))
        failed = [row for row in job.rows if not row.passed]
        if failed:
            names = ", ".join(f"{row.output} of {row.graph}" for row in failed)
            raise ExportError(
                f"not the same as transformers within the tolerance: {names}; nothing was written"
            )
        if builder is not None:
            tensorrt.build(stage, job.leaves, builder, report)
    report(f"{output} is ready")
    return job.rows


class _Job:
    """The settings of one export and the rows of its table so far."""

    def __init__(
        self,
        precision: Precision,
        decoder_weights: DecoderWeights,
        opset: int,
        tolerance: float | None,
        attention: Attention | None,
        report: Report,
    ) -> None:
        self.precision = precision
        self.decoder_weights = decoder_weights
        self.opset = opset
        self.tolerance = tolerance
        self.attention = attention
        self.report = report
        self.rows: list[Row] = []
        self.leaves: list[str] = []  # the leaf models that it has written
        self.attention_of: dict[str, AttentionForm] = {}

    def florence2(self, folder_or_id: str, stage: Path) -> None:
        started = time.perf_counter()
        checkpoint = checkpoints.find_checkpoint(folder_or_id)
        model = checkpoints.load_florence2(checkpoint)
        processor = florence2_facts.load_processor(checkpoint)
        image = florence2_facts.read_image(processor)
        vision, text_encoder, decoder = florence2.graphs(model, image)
        features = vision.tensor("image_features").dims
        manifest = florence2_facts.read_manifest(
            checkpoint, model, processor, features[1], self.precision, self.decoder_weights, self.opset
        )
        reference = florence2_checks.Reference(model, image)
        self._took(f"Florence-2 {checkpoint.source.checkpoint}: loaded", started)
        rows = self._write(vision, stage, reference.vision_cases(), self.precision)
        rows += self._write(text_encoder, stage, reference.text_encoder_cases(), self.precision)
        form: Form = "int8" if self.decoder_weights == "int8" else self.precision
        rows += self._write(
            decoder,
            stage,
            reference.decoder_cases(),
            form,
            lambda file: self._generation(decoder, file, reference, form),
        )
        folder = stage / "florence2" / "1"
        (folder / florence2_facts.TOKENIZER).unlink(missing_ok=True)
        florence2_facts.write_tokenizer(processor, folder)
        tables = embedding.write_embedding(model, folder, self.precision)
        self._finish(manifest, stage, folder, (vision, text_encoder, decoder), rows, tables)
        self.leaves.append("florence2_vision_encoder")
        configs.rewrite(
            stage / "florence2_vision_encoder",
            {"pixels": vision.tensor("pixels").dims[1:], "image_features": features[1:]},
        )
        configs.rewrite(stage / "florence2", {"image_features": (1, *features[1:])})

    def sam2(self, folder_or_id: str, stage: Path) -> None:
        started = time.perf_counter()
        checkpoint = checkpoints.find_checkpoint(folder_or_id)
        model = checkpoints.load_sam2(checkpoint)
        image = sam2_facts.read_image(checkpoint, model)
        encoder, decoder = sam2.graphs(model, image)
        logits = decoder.tensor("mask_logits").dims
        manifest = sam2_facts.read_manifest(checkpoint, image, logits[-1], self.precision, self.opset)
        reference = sam2_checks.Reference(model, image)
        self._took(f"SAM2 {checkpoint.source.checkpoint}: loaded", started)
        rows = self._write(encoder, stage, reference.encoder_cases(), self.precision)
        rows += self._write(decoder, stage, reference.decoder_cases(self.precision), self.precision)
        self._finish(manifest, stage, stage / "sam2" / "1", (encoder, decoder), rows)
        self.leaves += ["sam2_image_encoder", "sam2_mask_decoder"]
        # The encoder is batched by Triton, whose configs leave the batch axis out.
        leaf = {tensor.name: tensor.dims[1:] for tensor in (*encoder.inputs, *encoder.outputs)}
        configs.rewrite(stage / "sam2_image_encoder", leaf)
        configs.rewrite(
            stage / "sam2_mask_decoder",
            {tensor.name: tensor.dims for tensor in (*decoder.inputs, *decoder.outputs)},
        )
        configs.rewrite(stage / "sam2_preprocess", {"pixels": (1, *leaf["pixels"])})
        configs.rewrite(stage / "sam2_postprocess", {"mask_logits": logits})

    def _write(
        self,
        graph: Graph,
        stage: Path,
        cases: Iterable[Case],
        form: Form,
        more: Callable[[Path], Row] | None = None,
    ) -> list[Row]:
        """Write and check one graph; `more` is another check of the file."""
        path = stage / graph.file
        repository.remove_graph(path)
        prepared = list(cases)
        started = time.perf_counter()
        self._write_graph(graph, path, form, prepared)
        size = sum(file.stat().st_size for file in _files(path))
        self._took(f"{graph.file}: {size / 1e6:.1f} MB written", started)
        started = time.perf_counter()
        with computed(path, form) as file:
            rows = checks.check_graph(graph, file, prepared, form, self.tolerance)
            self._took(f"{graph.file}: compared with transformers", started)
            if more is not None:
                rows.append(more(file))
            if file != path:
                # The file itself, as the server runs it on a CPU.
                served = checks.check_graph(graph, path, prepared[:1], form, self.tolerance)
                rows += [row for row in served if not row.passed]
        return rows

    def _write_graph(self, graph: Graph, path: Path, form: Form, cases: list[Case]) -> None:
        """Write `graph`; a fusible one with attention as it was asked for, else in the form that is faster here."""
        if graph.fusible and form == "fp32" and self.attention is None:
            self._write_faster(graph, path, cases[0])
            return
        attention: Attention = "parts" if form == "fp16" else self.attention or "fused"
        if graph.fusible:
            self.attention_of[graph.file] = AttentionForm(attention)
        # The last case has the largest batch, the longest prompts, the most boxes.
        write_graph(graph, path, self.opset, form, samples=[cases[-1].inputs], attention=attention)

    def _write_faster(self, graph: Graph, path: Path, case: Case) -> None:
        """Write `graph` in each form, time runs of `case`, and keep the faster."""
        started = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".timed-") as folder:
            # Of one name each: a file knows its external data by name.
            files: dict[Attention, Path] = {
                name: Path(folder) / name / path.name for name in get_args(Attention)
            }
            for name, file in files.items():
                write_graph(graph, file, self.opset, "fp32", attention=name)
            times = choice.milliseconds(files, case.inputs)
            chosen = choice.best(times, "fused")
            for file in _files(files[chosen]):
                file.rename(path.parent / file.name)
        self.attention_of[graph.file] = AttentionForm(chosen, {str(name): ms for name, ms in times.items()})
        listed = ", ".join(f"{name} {ms:.1f} ms" for name, ms in times.items())
        self._took(f"{graph.file}: attention {listed}, {chosen} chosen", started)

    def _generation(
        self, decoder: Graph, file: Path, reference: florence2_checks.Reference, form: Form
    ) -> Row:
        started = time.perf_counter()
        error, scale = florence2_checks.check_generation(decoder, file, reference)
        self._took(f"{decoder.file}: decoded step by step beside transformers", started)
        return checks.row(decoder, "logits (12 steps)", error, scale, form, self.tolerance)

    def _finish(
        self,
        manifest: Exported,
        stage: Path,
        folder: Path,
        graphs: tuple[Graph, ...],
        rows: list[Row],
        others: Iterable[Path] = (),
    ) -> None:
        files = [*(file for graph in graphs for file in _files(stage / graph.file)), *others]
        self.rows += rows
        (folder / "manifest.json").unlink(missing_ok=True)
        dataclasses.replace(
            manifest,
            files={file.relative_to(stage).as_posix(): checkpoints.hash_files([file]) for file in files},
            exported_with={
                "florence2-sam2": __version__,
                "torch": torch.__version__,
                **{package: version(package) for package in ("transformers", "onnx", "onnxruntime")},
                "exporter": "torch.onnx TorchScript",
            },
            parity=checks.parity(rows),
            attention={g.file: self.attention_of[g.file] for g in graphs if g.file in self.attention_of},
        ).write(folder)

    def _took(self, what: str, started: float) -> None:
        self.report(f"{what} in {time.perf_counter() - started:.1f} s")


def _files(path: Path) -> list[Path]:
    """An ONNX file and, where it has one, its external data."""
    return [file for file in (path, external_data(path)) if file.exists()]
