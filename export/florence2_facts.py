"""What a Florence-2 checkpoint decides besides its weights: image, tokens, prompts, positions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import Florence2ForConditionalGeneration, Florence2Processor, Florence2VisionConfig

from florence2_sam2.export.checkpoints import Checkpoint
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.generation_config import read_generation, single_id
from florence2_sam2.export.graphs import DecoderWeights, Precision
from florence2_sam2.export.image_config import STEPS, require_bytes_to_unit, triple
from florence2_sam2.server.manifest import Decoder, Florence2, ImageSpec, Tokens

TOKENIZER = "tokenizer.json"
_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
_TOKENIZER_FILES = ((TOKENIZER,), ("vocab.json", "merges.txt"))
_BINS = 1000  # whatever the tokenizer has, transformers reads locations as thousandths of a side
_BICUBIC = 3  # PIL.Image.Resampling.BICUBIC
_BILINEAR = 2


def load_processor(checkpoint: Checkpoint) -> Florence2Processor:
    """Raises ExportError when the checkpoint has no usable processor files."""
    name = checkpoint.source.checkpoint
    if not any((checkpoint.folder / file).is_file() for file in _PROCESSOR_FILES):
        raise ExportError(
            f"{name} does not say how a picture is prepared ({' or '.join(_PROCESSOR_FILES)}): copy these files "
            "from the checkpoint that it was trained from"
        )
    if not any(all((checkpoint.folder / file).is_file() for file in files) for files in _TOKENIZER_FILES):
        raise ExportError(f"{name} has no tokenizer: neither {TOKENIZER}, nor vocab.json and merges.txt")
    for file in (*_PROCESSOR_FILES, TOKENIZER, "tokenizer_config.json"):
        checkpoint.read_json(file)  # transformers takes some damaged ones for missing
    try:
        processor = Florence2Processor.from_pretrained(checkpoint.folder)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"{name}: its Florence2Processor cannot be loaded: {type(error).__name__}: {reason}"
        ) from None
    if not hasattr(processor.tokenizer, "backend_tokenizer"):
        raise ExportError(f"{name}: its tokenizer has no fast form ({TOKENIZER})")
    _require_positions(checkpoint, read_image(processor))
    return processor


def _require_positions(checkpoint: Checkpoint, image: ImageSpec) -> None:
    """Raises ExportError when a picture has more places than the model has learned positions for."""
    vision: dict[str, Any] = checkpoint.read_json("config.json").get("vision_config") or {}
    defaults = Florence2VisionConfig()
    stride = math.prod(vision.get("patch_stride") or defaults.patch_stride)
    positions = vision.get("max_position_embeddings") or defaults.max_position_embeddings
    if math.ceil(max(image.height, image.width) / stride) > positions:
        raise ExportError(
            f"the image processor's size is {image.height}×{image.width}, but the model knows positions up to "
            f"{positions * stride} pixels"
        )


def read_image(processor: Florence2Processor) -> ImageSpec:
    """The image processor's settings, for the one order of steps that the server does: resize, scale, normalise."""
    config = processor.image_processor.to_dict()
    size = config.get("size") or {}
    odd = [name for name in STEPS if config.get(name, True) is not True]
    if odd or config.get("do_center_crop") or "height" not in size or "width" not in size:
        raise ExportError(
            "the image processor does not just resize to a fixed height and width, rescale and normalise "
            f"({', '.join(odd) or 'do_center_crop or size'}): the server does only that"
        )
    require_bytes_to_unit(config)
    resample = int(config.get("resample", _BICUBIC))
    if resample not in (_BICUBIC, _BILINEAR):
        raise ExportError(
            f"the image processor resamples with filter {resample}: only bilinear and bicubic are known"
        )
    return ImageSpec(
        int(size["height"]),
        int(size["width"]),
        triple(config, "image_mean"),
        triple(config, "image_std"),
        "bicubic" if resample == _BICUBIC else "bilinear",
    )


def read_tokens(model: Florence2ForConditionalGeneration, processor: Florence2Processor) -> Tokens:
    """Special tokens, from the tokenizer and the generation config.

    Raises:
        ExportError: location tokens are missing or out of order, a token has no embedding, a needed one is not
            known, or tokenizer and generation config contradict each other.
    """
    tokenizer = processor.tokenizer
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    text: Any = model.config.text_config
    generation: dict[str, Any] = model.generation_config.to_dict()
    first = vocabulary.get("<loc_0>")
    if first is None:
        raise ExportError("the tokenizer has no location tokens (<loc_0> ...)")
    if processor.image_token_id != model.config.image_token_id:
        raise ExportError(
            f"the tokenizer's image token is {processor.image_token_id}, the model's {model.config.image_token_id}"
        )
    bins = sum(1 for token in vocabulary if token.startswith("<loc_") and token.endswith(">"))
    astray = next((i for i in range(bins) if vocabulary.get(f"<loc_{i}>") != first + i), None)
    if astray is not None:
        raise ExportError(
            f"the tokenizer's location tokens do not have ids in order: <loc_{astray}> is astray"
        )
    if bins != _BINS:
        raise ExportError(
            f"the tokenizer has {bins} location tokens; transformers reads them as {_BINS}ths of a side"
        )
    beyond = [
        token for token, id in vocabulary.items() if id >= text.vocab_size and id != processor.image_token_id
    ]
    if beyond:
        raise ExportError(
            f"the model's vocabulary of {text.vocab_size} ends before the tokenizer's: {len(beyond)} tokens have no "
            f"embedding, {min(beyond, key=vocabulary.__getitem__)} among them; resize_token_embeddings() was not called"
        )
    tokens = Tokens(
        bos=_known("bos", tokenizer.bos_token_id, single_id(generation, "bos_token_id")),
        pad=_known("pad", single_id(generation, "pad_token_id"), text.pad_token_id, tokenizer.pad_token_id),
        eos=_known("end", single_id(generation, "eos_token_id")),
        # As `generate` does.
        decoder_start=_known(
            "decoder start",
            single_id(generation, "decoder_start_token_id"),
            single_id(generation, "bos_token_id"),
        ),
        image=model.config.image_token_id,
        location_first=first,
        location_bins=bins,
        phrase_separator=vocabulary.get("<and>"),
        vocabulary=text.vocab_size,
    )
    for name in ("bos", "pad", "eos", "decoder_start"):
        _require_embedded(name, getattr(tokens, name), tokens.vocabulary)
    if tokens.eos != tokenizer.eos_token_id:
        raise ExportError(
            f"the generation config's eos_token_id is {tokens.eos}, the tokenizer's {tokenizer.eos_token_id}: "
            "answers would not end where the model ends them; correct the wrong one"
        )
    _require_frame(tokenizer, tokens)
    return tokens


def _known(name: str, *values: int | None) -> int:
    found = next((value for value in values if value is not None), None)
    if found is None:
        raise ExportError(f"the generation config does not name the {name} token")
    return found


def _require_embedded(name: str, token: int | None, vocabulary: int) -> None:
    if token is not None and not 0 <= token < vocabulary:
        raise ExportError(f"the {name} token is {token}, beyond the model's vocabulary of {vocabulary}")


def _require_frame(tokenizer: Any, tokens: Tokens) -> None:
    """Raises ExportError unless a text's ids stand between start and end token, which the server puts there."""
    text = "Locate the cup in the image."
    plain, framed = (tokenizer(text, add_special_tokens=added).input_ids for added in (False, True))
    if framed != [tokens.bos, *plain, tokens.eos]:
        raise ExportError(
            "the tokenizer does not put its start token in front of a text and its end token behind it"
        )


def read_manifest(
    checkpoint: Checkpoint,
    model: Florence2ForConditionalGeneration,
    processor: Florence2Processor,
    image_tokens: int,
    precision: Precision,
    decoder_weights: DecoderWeights,
    opset: int,
) -> Florence2:
    """The manifest without files and parity. `image_tokens` is what the vision graph really gives per picture."""
    if processor.num_image_tokens != image_tokens:
        raise ExportError(
            f"the processor says {processor.num_image_tokens} image tokens, the model makes {image_tokens} of a picture"
        )
    text: Any = model.config.text_config
    tokens = read_tokens(model, processor)
    generation = read_generation(model.generation_config.to_dict())
    for name in ("forced_bos", "forced_eos"):
        _require_embedded(name, getattr(generation, name), tokens.vocabulary)
    grounding: dict[str, Any] = (processor.post_processor_config or {}).get("phrase_grounding") or {}
    return Florence2(
        source=checkpoint.source,
        precision=precision,
        opset=opset,
        image=read_image(processor),
        image_tokens=image_tokens,
        feature_dim=text.d_model,
        tokenizer=TOKENIZER,
        tokens=tokens,
        decoder=Decoder(
            layers=text.decoder_layers,
            heads=text.decoder_attention_heads,
            head_dim=text.d_model // text.decoder_attention_heads,
            encoder_positions=text.max_position_embeddings,
            decoder_positions=text.max_position_embeddings,
        ),
        generation=generation,
        prompts=dict(processor.task_prompts_without_inputs),
        prompts_with_text=dict(processor.task_prompts_with_input),
        answers=dict(processor.tasks_answer_post_processing_type),
        banned_phrases=tuple(grounding.get("banned_grounding_tokens", ())),
        decoder_weights=decoder_weights,
    )


def write_tokenizer(processor: Florence2Processor, folder: Path) -> None:
    """Save the tokenizer as one file, without the truncation or padding that its last user may have left in it."""
    backend = processor.tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    backend.save(str(folder / TOKENIZER))
