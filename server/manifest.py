"""What serving knows of an exported model: `manifest.json` in the version folder of `florence2` and of `sam2`.

`export` writes it, the server reads it, and neither torch nor transformers is needed to do so. All numbers that a
checkpoint decides (image sizes, token ids, prompts, generation settings) come from here and are written nowhere else.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

T = TypeVar("T")

MANIFEST = "manifest.json"
PLAN = "model.plan"  # TensorRT's form of a leaf model's model.onnx
FORMAT = 3  # raised when a server can no longer use what was exported before


class ManifestError(Exception):
    """A manifest is missing, unreadable or of another format. The message is one line for the operator."""


@dataclass(frozen=True)
class ImageSpec:
    """How a picture becomes an encoder's `pixels` UINT8 [3, height, width]: resized, the aspect ignored. The encoder's
    graph itself makes (x / 255 - mean) / std of them."""

    height: int
    width: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resample: Literal["bicubic", "bilinear"]


@dataclass(frozen=True)
class Source:
    """Where the weights came from. `sha256` is the hash over the checkpoint's weight files, in name order."""

    checkpoint: str
    sha256: str
    revision: str | None = None


@dataclass(frozen=True)
class Tokens:
    """Token ids of one tokenizer. `location_first … location_first + location_bins - 1` are `<loc_0>` … in order."""

    bos: int
    pad: int
    eos: int
    decoder_start: int
    image: int
    location_first: int
    location_bins: int
    phrase_separator: int | None  # <and>; None when the tokenizer has no such token
    vocabulary: int


@dataclass(frozen=True)
class Generation:
    """The checkpoint's generation config, in transformers' names and with transformers' meaning.

    `max_new_tokens` None: what the decoder's positions allow. Settings that the decoding loop does not have
    (sampling, repetition penalty, …) are refused at export.
    """

    num_beams: int = 1
    max_new_tokens: int | None = None
    min_new_tokens: int = 0
    no_repeat_ngram_size: int = 0
    forced_bos: int | None = None
    forced_eos: int | None = None
    early_stopping: bool | Literal["never"] = False
    length_penalty: float = 1.0


@dataclass(frozen=True)
class Decoder:
    """Shape of the text decoder's caches: `layers` pairs of key and value, each [batch, heads, length, head_dim]."""

    layers: int
    heads: int
    head_dim: int
    encoder_positions: int
    decoder_positions: int


@dataclass(frozen=True)
class Parity:
    """Largest absolute difference from transformers that the export's own check measured, and what was allowed."""

    max_abs_error: float
    tolerance: float


@dataclass(frozen=True)
class AttentionForm:
    """How a graph computes attention: one operator of onnxruntime each, or its parts. And how long a run took of what
    could be chosen from, where the choice was the export's."""

    form: Literal["fused", "parts"]
    milliseconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What a plan runs with: this release of TensorRT, on GPUs of this compute capability, as `gpu`, which built it."""

    tensorrt: str
    gpu: str
    compute_capability: str


@dataclass(frozen=True)
class Exported:
    """What both manifests have. `files` maps each ONNX file, table and plan, relative to the repository, to its
    SHA-256; `attention` has the encoders' files, `plans` those of TensorRT."""

    source: Source
    precision: Literal["fp32", "fp16"]
    opset: int
    image: ImageSpec
    exported_with: dict[str, str] = field(kw_only=True, default_factory=dict)
    files: dict[str, str] = field(kw_only=True, default_factory=dict)
    parity: dict[str, Parity] = field(kw_only=True, default_factory=dict)
    attention: dict[str, AttentionForm] = field(kw_only=True, default_factory=dict)
    plans: dict[str, Plan] = field(kw_only=True, default_factory=dict)

    def identity(self) -> dict[str, str]:
        """What an answer says of the model: checkpoint, hash and precision."""
        return {
            "checkpoint": self.source.checkpoint,
            "sha256": self.source.sha256,
            "precision": self.precision,
        }

    def write(self, folder: Path) -> None:
        body = {"format": FORMAT, "kind": type(self).__name__, **dataclasses.asdict(self)}
        if not self.plans:
            del body["plans"]  # servers from before there were any can read it
        (folder / MANIFEST).write_text(
            json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
        )

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read `folder/manifest.json`.

        Raises:
            ManifestError: it is missing, no JSON, of another format or kind, or lacks a field.
        """
        path = folder / MANIFEST
        try:
            body: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ManifestError(
                f"{path} is missing: is this folder the output of `florence2-sam2 export`?"
            ) from None
        except (OSError, ValueError) as error:
            raise ManifestError(f"{path} cannot be read: {error}") from None
        if not isinstance(body, dict) or (body.pop("format", None), body.pop("kind", None)) != (
            FORMAT,
            cls.__name__,
        ):
            raise ManifestError(f"{path} is no {cls.__name__} manifest of format {FORMAT}: export again")
        try:
            return _build(cls, body)
        except (AttributeError, TypeError, KeyError, ValueError) as error:
            raise ManifestError(f"{path} is damaged ({error}): export again") from None


@dataclass(frozen=True)
class Florence2(Exported):
    """Manifest of an exported Florence-2."""

    image_tokens: int  # image features per picture, in front of the prompt
    feature_dim: int
    tokenizer: str  # file name beside the manifest
    tokens: Tokens
    decoder: Decoder
    generation: Generation
    prompts: dict[str, str]  # task → prompt that takes no text
    prompts_with_text: dict[str, str]  # task → prompt with `{input}`
    answers: dict[str, str]  # task → form of its answer, as transformers' processor names them
    banned_phrases: tuple[str, ...]
    # of the text decoder; int8: 8-bit weights and float32 arithmetic, whatever the precision of the other graphs
    decoder_weights: Literal["float", "int8"] = "float"

    def identity(self) -> dict[str, str]:
        return {**super().identity(), "decoder_weights": self.decoder_weights}


@dataclass(frozen=True)
class Sam2(Exported):
    """Manifest of an exported SAM2. The mask decoder's logits are [boxes, mask_size, mask_size]."""

    mask_size: int


_NESTED: dict[str, type] = {
    "source": Source,
    "image": ImageSpec,
    "tokens": Tokens,
    "decoder": Decoder,
    "generation": Generation,
}


def _build(cls: type[T], body: dict[str, Any]) -> T:
    values = dict(body)
    for name, nested in _NESTED.items():
        if name in values:
            values[name] = nested(**{key: _tupled(value) for key, value in values[name].items()})
    for name, row in (("parity", Parity), ("attention", AttentionForm), ("plans", Plan)):
        if name in values:
            values[name] = {key: row(**value) for key, value in values[name].items()}
    return cls(**{key: _tupled(value) for key, value in values.items()})


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def packaged_repository() -> Path:
    """The model repository that travels with the package, with the small demo models.

    It lies beside the `server` package, in the source tree as in the installed package.
    """
    return Path(__file__).parents[1] / "model_repository"


def external_data(path: Path) -> Path:
    """Where the weights of the ONNX file `path` lie when they are not in it: protobuf ends at 2 GB.

    `export` names both files in the manifest; onnxruntime finds the second one by its place beside the first.
    """
    return path.with_name(path.name + ".data")


def version_folder(repository: Path, model: str) -> Path:
    """The folder of the newest version of `model` in a model repository: the one Triton serves by default.

    Raises:
        ManifestError: the model has no version folder.
    """
    folder = repository / model
    versions = [child for child in folder.iterdir() if child.name.isdigit()] if folder.is_dir() else []
    if not versions:
        raise ManifestError(f"{folder} has no version folder: is this a repository that `export` wrote?")
    return max(versions, key=lambda child: int(child.name))


def read_florence2(repository: Path) -> Florence2:
    return Florence2.read(version_folder(repository, "florence2"))


def read_sam2(repository: Path) -> Sam2:
    return Sam2.read(version_folder(repository, "sam2"))
