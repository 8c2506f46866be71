"""A checkpoint that would not be served as its author meant it is refused in one line that says why."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from odd_checkpoints import SHARED, WEIGHTS, Weights, copy, edit, edit_weights, facts, set_fields
from safetensors.torch import load_file, save_file

from florence2_sam2.export import checkpoints, sam2_facts
from florence2_sam2.export.errors import ExportError

pytestmark = pytest.mark.parity

Change = Callable[[Path], Any]


def generation(**fields: Any) -> Change:
    return lambda folder: set_fields(folder, "generation_config.json", **fields)


def without_generation(name: str) -> Change:
    return lambda folder: edit(folder, "generation_config.json", lambda body: body.pop(name))


def image(**fields: Any) -> Change:
    return lambda folder: set_fields(folder, "processor_config.json", "image_processor", **fields)


def config(**fields: Any) -> Change:
    return lambda folder: set_fields(folder, "config.json", **fields)


def text(**fields: Any) -> Change:
    return lambda folder: set_fields(folder, "config.json", "text_config", **fields)


def weights(change: Callable[[Weights], Weights | None]) -> Change:
    return lambda folder: edit_weights(folder, change)


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Change:
    return lambda folder: edit(folder, "tokenizer.json", change)


def file(name: str, content: bytes | None) -> Change:
    """The file with other content, or gone."""
    return lambda folder: (
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    )


def shortened(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100_000])


def pickled(content: Callable[[Path], Any]) -> Change:
    def change(folder: Path) -> None:
        torch.save(content(folder), folder / "pytorch_model.bin")
        (folder / WEIGHTS).unlink()

    return change


class Malicious:
    """A pickle of it runs a command when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("a pickle ran this",)


def raw_pickle(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Malicious()))
    (folder / WEIGHTS).unlink()


def shards(folder: Path) -> None:
    """Two files by the index, one there."""
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))


def adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8}))
    save_file({"lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")


def only_adapter(folder: Path) -> None:
    adapter(folder)
    (folder / WEIGHTS).unlink()
    (folder / "config.json").unlink()


def microsoft(folder: Path) -> None:
    set_fields(folder, "config.json", "text_config", model_type="florence2_language")
    set_fields(folder, "config.json", "vision_config", model_type="davit")


def one_more_token(folder: Path) -> None:
    """Behind the embedding's last row."""
    rows = len(load_file(folder / WEIGHTS)[SHARED])
    edit(
        folder,
        "tokenizer.json",
        lambda t: t["added_tokens"].append(t["added_tokens"][-1] | {"content": "<new>", "id": rows}),
    )


def nan(stored: Weights) -> None:
    stored["model.language_model.decoder.layers.1.fc1.bias"][3] = float("nan")


# What is wrong, and a part of the line that says so. Before any weight is loaded:
FILES: dict[str, tuple[Change, str]] = {
    "a captioner of another kind": (config(model_type="blip"), "is a 'blip' checkpoint, not 'florence2'"),
    "SAM2 in its place": (config(model_type="sam2_video"), "is a 'sam2_video' checkpoint"),
    "config.json is no JSON": (file("config.json", b"{"), "config.json is no JSON"),
    "Microsoft's remote code": (microsoft, "florence-community"),
    "an adapter alone": (only_adapter, "merge it into its base model first"),
    "an adapter beside a model": (adapter, "merge it into its base model first"),
    "quantised": (
        config(quantization_config={"quant_method": "bitsandbytes"}),
        r"quantised \(bitsandbytes\)",
    ),
    "weights cut short": (shortened, "model.safetensors is damaged or incomplete"),
    "weights empty": (file(WEIGHTS, b""), "model.safetensors is damaged or incomplete"),
    "Git LFS's pointer": (file(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
    "no weights in the file": (weights(lambda stored: {}), "holds no weights"),
    "a shard is missing": (shards, "1 of 2 weight files are missing, model-00002-of-00002.safetensors"),
    "a broken index": (file("model.safetensors.index.json", b"[]"), "is no index of weight files"),
    "a pickle that runs code": (pickled(lambda folder: {"a": Malicious()}), "holds more than weights"),
    "a bare pickle": (raw_pickle, "damaged or incomplete, or not written by torch.save"),
    "generation config is no JSON": (
        file("generation_config.json", b"{'num_beams': 3}"),
        "generation_config.json is no JSON",
    ),
}
# After loading:
LOADED: dict[str, tuple[Change, str]] = {
    "a weight is missing": (
        weights(lambda stored: {k: v for k, v in stored.items() if not k.endswith("layers.1.fc1.bias")}),
        r"lacks 2 weights .*decoder.layers.1.fc1.bias among them",
    ),
    "weights named as Microsoft's": (
        weights(
            lambda s: {k.replace("model.language_model.", "language_model.model."): v for k, v in s.items()}
        ),
        "florence-community",
    ),
    "an adapter inside": (
        weights(lambda s: {k.replace("q_proj.weight", "q_proj.base_layer.weight"): v for k, v in s.items()}),
        "adapter that was not merged",
    ),
    "other shapes than the config's": (
        text(vocab_size=4000),
        r"shared.weight is \[\d+, \d+\] in the file, \[4000, \d+\] by",
    ),
    "not a number": (weights(nan), "decoder.layers.1.fc1.bias holds values that are not finite"),
    "a bias on the logits": (
        weights(lambda stored: stored | {"final_logits_bias": torch.ones(1, len(stored[SHARED]))}),
        "final_logits_bias that is not zero",
    ),
    "untied without its weights": (config(tie_word_embeddings=False), "lacks 1 weight of .*lm_head.weight"),
}
# What the processor and the generation config say:
SAID: dict[str, tuple[Change, str]] = {
    "no processor": (file("processor_config.json", None), "does not say how a picture is prepared"),
    "no tokenizer": (file("tokenizer.json", None), "has no tokenizer"),
    "tokenizer is no JSON": (file("tokenizer.json", b"{"), "tokenizer.json is no JSON"),
    "tokenizer is another JSON": (file("tokenizer.json", b"{}"), "Florence2Processor cannot be loaded"),
    "no image token": (file("tokenizer_config.json", None), "image_token"),
    "resized by its shorter side": (image(size={"shortest_edge": 160}), "fixed height and width"),
    "cropped": (image(do_center_crop=True), "do_center_crop"),
    "not resized": (image(do_resize=False), "do_resize"),
    "not normalised": (image(do_normalize=False), "do_normalize"),
    "another scale": (image(rescale_factor=1 / 127.5), "rescale_factor"),
    "Lanczos": (image(resample=1), "filter 1"),
    "one mean for all": (image(image_mean=0.5), "image_mean is 0.5, not three numbers"),
    "no deviation": (image(image_std=[0, 0, 0]), "image_std"),
    "a size without places": (image(size={"height": 64_000, "width": 160}), "positions up to"),
    "a size with other places": (image(size={"height": 192, "width": 160}), r"the processor says \d+ image tokens"),
    "no location tokens": (
        tokenizer(lambda t: [row.update(content=f"<place_{i}>") for i, row in enumerate(t["added_tokens"])
                             if row["content"].startswith("<loc_")]),
        "no location tokens",
    ),
    "fewer location tokens": (
        tokenizer(lambda t: [row.update(content="<spare>") for row in t["added_tokens"]
                             if row["content"] == "<loc_999>"]),
        "999 location tokens",
    ),
    "location tokens out of order": (
        tokenizer(lambda t: [row.update(content={"<loc_7>": "<loc_8>", "<loc_8>": "<loc_7>"}[row["content"]])
                             for row in t["added_tokens"] if row["content"] in ("<loc_7>", "<loc_8>")]),
        "<loc_7> is astray",
    ),
    "more tokens than embeddings": (one_more_token, "no embedding, <new> among them"),
    "texts without start and end": (tokenizer(lambda t: t.update(post_processor=None)), "start token"),
    "another image token": (config(image_token_id=7), "the model's 7"),
    "sampling": (generation(do_sample=True), "do_sample"),
    "beams in words": (generation(num_beams="three"), "num_beams is 'three'"),
    "no beams": (generation(num_beams=0), "num_beams is 0"),
    "no end": (without_generation("eos_token_id"), "does not name the end token"),
    "another end": (generation(eos_token_id=5), "eos_token_id is 5, the tokenizer's 2"),
    "two ends": (generation(eos_token_id=[2, 5]), "names 2 tokens"),
    "a start beyond the vocabulary": (generation(decoder_start_token_id=50265), "decoder_start token is 50265"),
    "a forced token beyond the vocabulary": (generation(forced_bos_token_id=50265), "forced_bos token is 50265"),
    "padding beyond the vocabulary": (generation(pad_token_id=50265), "pad token is 50265"),
}  # fmt: skip


@pytest.mark.parametrize("oddity", [*FILES, *LOADED, *SAID])
def test_refused_with_the_reason(
    small_checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, oddity: str
) -> None:
    monkeypatch.chdir(tmp_path)
    change, reason = (FILES | LOADED | SAID)[oddity]
    folder = copy(small_checkpoints / "florence2", tmp_path / "odd")
    change(folder)
    with pytest.raises(ExportError, match=reason) as caught:
        facts(folder)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["odd"], "something was run"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (shortened, "model.safetensors is damaged or incomplete"),
        (config(quantization_config={"quant_method": "gptq"}), r"quantised \(gptq\)"),
        (adapter, "merge it into its base model first"),
        (config(model_type="sam_hq"), "is a 'sam_hq' checkpoint, not 'sam2'"),
        (weights(lambda stored: {k: v * float("inf") for k, v in stored.items()}), "not finite"),
    ],
)
def test_sam2_is_looked_at_as_well(
    small_checkpoints: Path, tmp_path: Path, change: Change, reason: str
) -> None:
    folder = copy(small_checkpoints / "sam2", tmp_path / "odd")
    change(folder)
    with pytest.raises(ExportError, match=reason):
        checkpoints.load_sam2(checkpoints.find_checkpoint(str(folder)))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"size": {"height": 512, "width": 256}}, "resizes to 512×256"),
        ({"do_normalize": False}, "do_normalize"),
        ({"resample": 3}, "resample"),
        ({"rescale_factor": 1.0}, "rescale_factor is 1.0"),
        ({"image_mean": [0.5]}, "image_mean is"),
        ({"image_std": [1, 0, 1]}, "divided by zero"),
    ],
)
def test_odd_pictures_of_sam2_are_refused(
    small_checkpoints: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    folder = copy(small_checkpoints / "sam2", tmp_path / "odd")
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    checkpoint = checkpoints.find_checkpoint(str(folder))
    with pytest.raises(ExportError, match=reason):
        sam2_facts.read_image(checkpoint, checkpoints.load_sam2(checkpoint))


def test_the_unchanged_copy_is_not_refused(small_checkpoints: Path, tmp_path: Path) -> None:
    folder = copy(small_checkpoints / "florence2", tmp_path / "odd")
    assert facts(folder).tokens.vocabulary == len(load_file(folder / WEIGHTS)[SHARED])
