"""A checkpoint's generation config → `manifest.Generation`, or a refusal that says what the server lacks."""

from __future__ import annotations

import math
from typing import Any

from florence2_sam2.export.errors import ExportError
from florence2_sam2.server.manifest import Generation

# transformers' name → the values with which the setting does nothing (None, "not set", is always one of them)
# What is not listed either is read below or changes no token.
_INACTIVE: dict[str, tuple[Any, ...]] = {
    "do_sample": (False,),
    "repetition_penalty": (1.0,),
    "encoder_repetition_penalty": (1.0,),
    "encoder_no_repeat_ngram_size": (0,),
    "bad_words_ids": ([],),
    "force_words_ids": ([],),
    "constraints": ([],),
    "sequence_bias": ({}, []),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "forced_decoder_ids": ([],),
    "exponential_decay_length_penalty": (),
    "num_beam_groups": (1,),
    "diversity_penalty": (0.0,),
    "penalty_alpha": (0.0,),
    "dola_layers": (),
    "guidance_scale": (1.0,),
    "renormalize_logits": (False,),
    "num_return_sequences": (1,),
    "prompt_lookup_num_tokens": (),
    "stop_strings": ([],),
    "watermarking_config": (),
    "token_healing": (False,),
    "min_length": (0,),
}

# transformers' default where a checkpoint says nothing: far too short for a caption, so it counts as "not set".
_DEFAULT_MAX_LENGTH = 20


def read_generation(config: dict[str, Any]) -> Generation:
    """Map `GenerationConfig.to_dict()`.

    Raises:
        ExportError: a setting is active that the server's decoding loop does not have, or makes no sense.
    """
    for name, inactive in _INACTIVE.items():
        value = config.get(name)
        if value is not None and value not in inactive:
            raise ExportError(
                f"generation_config: {name} is {value!r}, which the server's decoding loop does not have; "
                "its answers would differ from transformers'"
            )
    early_stopping = config.get("early_stopping") or False
    if early_stopping not in (True, False, "never"):
        raise ExportError(
            f'generation_config: early_stopping is {early_stopping!r}, not true, false or "never"'
        )
    return Generation(
        num_beams=_whole(config, "num_beams", 1) or 1,
        max_new_tokens=_max_new_tokens(config),
        min_new_tokens=_whole(config, "min_new_tokens", 0) or 0,
        no_repeat_ngram_size=_whole(config, "no_repeat_ngram_size", 0) or 0,
        forced_bos=single_id(config, "forced_bos_token_id"),
        forced_eos=single_id(config, "forced_eos_token_id"),
        early_stopping=early_stopping,
        length_penalty=_length_penalty(config),
    )


def _whole(config: dict[str, Any], name: str, minimum: int) -> int | None:
    """A whole number of the config, None when it is not set."""
    value = config.get(name)
    if value is not None and (type(value) is not int or value < minimum):
        raise ExportError(f"generation_config: {name} is {value!r}, not a whole number of at least {minimum}")
    return value


def _length_penalty(config: dict[str, Any]) -> float:
    value = config.get("length_penalty")
    if value is not None and (type(value) not in (int, float) or not math.isfinite(value)):
        raise ExportError(f"generation_config: length_penalty is {value!r}, not a number")
    return 1.0 if value is None else float(value)


def single_id(config: dict[str, Any], name: str) -> int | None:
    """A token id of the config; a list of one counts as that one.

    Raises:
        ExportError: it is a list of several, or no id.
    """
    value = config.get(name)
    if isinstance(value, (list, tuple)):
        if len(value) > 1:
            raise ExportError(
                f"generation_config: {name} names {len(value)} tokens, the decoding loop knows one"
            )
        value = value[0] if value else None
    if value is not None and (type(value) is not int or value < 0):
        raise ExportError(f"generation_config: {name} is {value!r}, not a token's id")
    return value


def _max_new_tokens(config: dict[str, Any]) -> int | None:
    new = _whole(config, "max_new_tokens", 1)
    if new is not None:
        return new
    length = _whole(config, "max_length", 2)
    # `max_length` counts the start token too.
    return None if length in (None, _DEFAULT_MAX_LENGTH) else length - 1
