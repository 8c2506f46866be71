"""What a Florence-2 checkpoint decides besides its weights: image, tokens, prompts, positions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import Florence2ForConditionalGeneration, Florence2Processor

from florence2_sam2.export.checkpoints import Checkpoint
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.generation_config import read_generation, single_id
from florence2_sam2.export.graphs import Precision
from florence2_sam2.server.manifest import Decoder, Florence2, ImageSpec, Tokens

TOKENIZER = "tokenizer.json"
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC
_BILINEAR = 2


def load_processor(checkpoint: Checkpoint) -> Florence2Processor:
    """Raises ExportError when the checkpoint has no usable processor files."""
    try:
        processor = Florence2Processor.from_pretrained(checkpoint.folder)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ExportError(
            f"{checkpoint.source.checkpoint}: its Florence2Processor cannot be loaded: {error}"
        ) from None
    if not hasattr(processor.tokenizer, "backend_tokenizer"):
        raise ExportError(f"{checkpoint.source.checkpoint} has no tokenizer.json (a fast tokenizer)")
    return processor


def read_image(processor: Florence2Processor) -> ImageSpec:
    """The image processor's settings, for the one order of steps that the server does: resize, scale, normalise."""
    config = processor.image_processor.to_dict()
    size = config.get("size") or {}
    wanted = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    odd = [name for name, value in wanted.items() if config.get(name, value) is not value]
    if odd or config.get("do_center_crop") or "height" not in size or "width" not in size:
        raise ExportError(
            "the image processor does not just resize to a fixed height and width, rescale and normalise "
            f"({', '.join(odd) or 'do_center_crop or size'}): the server does only that"
        )
    if abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise ExportError(f"the image processor's rescale_factor is {config['rescale_factor']}, not 1/255")
    resample = int(config.get("resample", _BICUBIC))
    if resample not in (_BICUBIC, _BILINEAR):
        raise ExportError(
            f"the image processor resamples with filter {resample}: only bilinear and bicubic are known"
        )
    return ImageSpec(
        int(size["height"]),
        int(size["width"]),
        _triple(config["image_mean"]),
        _triple(config["image_std"]),
        "bicubic" if resample == _BICUBIC else "bilinear",
    )


def read_tokens(model: Florence2ForConditionalGeneration, processor: Florence2Processor) -> Tokens:
    """Special tokens, from the tokenizer and the generation config.

    Raises:
        ExportError: location tokens are missing or out of order, or a needed token is not known.
    """
    tokenizer = processor.tokenizer
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    text: Any = model.config.text_config
    generation: dict[str, Any] = model.generation_config.to_dict()
    first = vocabulary.get("<loc_0>")
    if first is None:
        raise ExportError("the tokenizer has no location tokens (<loc_0> ...)")
    bins = sum(1 for token in vocabulary if token.startswith("<loc_") and token.endswith(">"))
    astray = next((i for i in range(bins) if vocabulary.get(f"<loc_{i}>") != first + i), None)
    if astray is not None:
        raise ExportError(
            f"the tokenizer's location tokens do not have ids in order: <loc_{astray}> is astray"
        )
    if first + bins > text.vocab_size:
        raise ExportError(f"the model's vocabulary of {text.vocab_size} ends before the location tokens do")

    def known(name: str, *values: int | None) -> int:
        found = next((value for value in values if value is not None), None)
        if found is None:
            raise ExportError(f"neither the generation config nor the tokenizer names the {name} token")
        return found

    eos = single_id(generation, "eos_token_id")
    return Tokens(
        bos=known("bos", tokenizer.bos_token_id, single_id(generation, "bos_token_id")),
        pad=known("pad", generation.get("pad_token_id"), text.pad_token_id, tokenizer.pad_token_id),
        eos=known("eos", eos, text.eos_token_id, tokenizer.eos_token_id),
        decoder_start=known(
            "decoder start",
            generation.get("decoder_start_token_id"),
            getattr(text, "decoder_start_token_id", None),
        ),
        image=model.config.image_token_id,
        location_first=first,
        location_bins=bins,
        phrase_separator=vocabulary.get("<and>"),
        vocabulary=text.vocab_size,
    )


def read_manifest(
    checkpoint: Checkpoint,
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    image_tokens: int,
    precision: Precision,
    opset: int,
) -> Florence2:
    """The manifest without files and parity. `image_tokens` is what the vision graph really gives per picture."""
    if processor.num_image_tokens != image_tokens:
        raise ExportError(
            f"the processor says {processor.num_image_tokens} image tokens, the model makes {image_tokens} of a picture"
        )
    text: Any = model.config.text_config
    grounding: dict[str, Any] = (processor.post_processor_config or {}).get("phrase_grounding") or {}
    return Florence2(
        source=checkpoint.source,
        precision=precision,
        opset=opset,
        image=read_image(processor),
        image_tokens=image_tokens,
        feature_dim=text.d_model,
        tokenizer=TOKENIZER,
        tokens=read_tokens(model, processor),
        decoder=Decoder(
            layers=text.decoder_layers,
            heads=text.decoder_attention_heads,
            head_dim=text.d_model // text.decoder_attention_heads,
            encoder_positions=text.max_position_embeddings,
            decoder_positions=text.max_position_embeddings,
        ),
        generation=read_generation(model.generation_config.to_dict()),
        prompts=dict(processor.task_prompts_without_inputs),
        prompts_with_text=dict(processor.task_prompts_with_input),
        answers=dict(processor.tasks_answer_post_processing_type),
        banned_phrases=tuple(grounding.get("banned_grounding_tokens", ())),
    )


def write_tokenizer(processor: Florence2Processor, folder: Path) -> None:
    """Save the tokenizer as one file, without the truncation or padding that its last user may have left in it."""
    backend = processor.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER))


def _triple(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)
