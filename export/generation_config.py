"""A checkpoint's generation config → `manifest.Generation`, or a refusal that says what the server lacks."""

from __future__ import annotations

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
        ExportError: a setting is active that the server's decoding loop does not have.
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
    length_penalty = config.get("length_penalty")
    return Generation(
        num_beams=config.get("num_beams") or 1,
        max_new_tokens=_max_new_tokens(config),
        min_new_tokens=config.get("min_new_tokens") or 0,
        no_repeat_ngram_size=config.get("no_repeat_ngram_size") or 0,
        forced_bos=single_id(config, "forced_bos_token_id"),
        forced_eos=single_id(config, "forced_eos_token_id"),
        early_stopping=early_stopping,
        length_penalty=1.0 if length_penalty is None else float(length_penalty),
    )


def single_id(config: dict[str, Any], name: str) -> int | None:
    """A token id of the config; a list of one counts as that one.

    Raises:
        ExportError: it is a list of several.
    """
    value = config.get(name)
    if isinstance(value, (list, tuple)):
        if len(value) > 1:
            raise ExportError(
                f"generation_config: {name} names {len(value)} tokens, the decoding loop knows one"
            )
        value = value[0] if value else None
    return None if value is None else int(value)


def _max_new_tokens(config: dict[str, Any]) -> int | None:
    if config.get("max_new_tokens") is not None:
        return int(config["max_new_tokens"])
    length = config.get("max_length")
    # `max_length` counts the start token too.
    return None if length in (None, _DEFAULT_MAX_LENGTH) else int(length) - 1
