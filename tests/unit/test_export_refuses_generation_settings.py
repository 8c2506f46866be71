"""A checkpoint whose generation the server could not repeat is refused at export, with the reason."""

from __future__ import annotations

from typing import Any

import pytest

from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.generation_config import read_generation
from florence2_sam2.server.manifest import Generation

RELEASED: dict[str, Any] = {
    "bos_token_id": 0,
    "decoder_start_token_id": 2,
    "early_stopping": True,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "no_repeat_ngram_size": 3,
    "num_beams": 3,
    "pad_token_id": 1,
}


def test_the_released_settings() -> None:
    assert read_generation(RELEASED) == Generation(
        num_beams=3, no_repeat_ngram_size=3, forced_bos=0, forced_eos=2, early_stopping=True
    )


def test_nothing_set_is_plain_greedy() -> None:
    assert read_generation({}) == Generation()


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"max_new_tokens": 128}, "max_new_tokens", 128),
        ({"max_new_tokens": 128, "max_length": 77}, "max_new_tokens", 128),
        ({"max_length": 1025}, "max_new_tokens", 1024),  # it counts the start token
        ({"max_length": 20}, "max_new_tokens", None),  # transformers' default for "not set"
        ({"min_new_tokens": 4}, "min_new_tokens", 4),
        ({"forced_eos_token_id": [2]}, "forced_eos", 2),
        ({"early_stopping": "never"}, "early_stopping", "never"),
        ({"length_penalty": 0.0}, "length_penalty", 0.0),
    ],
)
def test_settings_are_mapped(settings: dict[str, Any], field: str, value: object) -> None:
    assert getattr(read_generation(settings), field) == value


@pytest.mark.parametrize(
    "harmless",
    [
        {"do_sample": False},
        {"repetition_penalty": 1.0},
        {"temperature": 0.3, "top_k": 7, "top_p": 0.1},
        {"num_beam_groups": 1, "diversity_penalty": 0.0},
        {"bad_words_ids": None, "suppress_tokens": []},
        {"use_cache": True, "output_scores": True},
    ],
    ids=str,
)
def test_odd_but_harmless_settings_are_read_as_they_are(harmless: dict[str, Any]) -> None:
    assert read_generation(RELEASED | harmless) == read_generation(RELEASED)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("do_sample", True),
        ("repetition_penalty", 1.2),
        ("encoder_no_repeat_ngram_size", 3),
        ("bad_words_ids", [[5]]),
        ("num_beam_groups", 3),
        ("diversity_penalty", 0.5),
        ("suppress_tokens", [7]),
        ("begin_suppress_tokens", [7]),
        ("sequence_bias", {(5,): -1.0}),
        ("renormalize_logits", True),
        ("guidance_scale", 1.5),
        ("min_length", 8),
        ("num_return_sequences", 2),
        ("stop_strings", ["."]),
        ("early_stopping", "sometimes"),
        ("forced_eos_token_id", [2, 3]),
        ("forced_bos_token_id", [0, 3]),
    ],
)
def test_settings_the_server_lacks_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ExportError, match=name):
        read_generation(RELEASED | {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_beams", 0),
        ("num_beams", "three"),
        ("num_beams", 2.5),
        ("num_beams", True),
        ("max_new_tokens", 0),
        ("max_new_tokens", "many"),
        ("max_length", 1),
        ("min_new_tokens", -1),
        ("no_repeat_ngram_size", -3),
        ("length_penalty", "long"),
        ("length_penalty", float("nan")),
        ("forced_bos_token_id", -1),
        ("forced_eos_token_id", "</s>"),
    ],
)
def test_settings_without_a_meaning_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ExportError, match=f"{name} is "):
        read_generation(RELEASED | {name: value})
