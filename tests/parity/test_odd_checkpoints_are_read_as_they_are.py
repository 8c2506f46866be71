"""What is odd about a checkpoint and still has a meaning is served with that meaning: transformers'."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_checkpoints import (
    SHARED,
    WEIGHTS,
    Weights,
    copy,
    edit,
    edit_weights,
    facts,
    set_fields,
    slow_tokenizer,
)
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    Florence2ForConditionalGeneration,
    Florence2Processor,
    Sam2Config,
    Sam2VideoConfig,
    Sam2VideoModel,
)

from florence2_sam2.export import checkpoints
from florence2_sam2.export.run import export
from florence2_sam2.server import manifest
from florence2_sam2.server.florence2 import Florence2
from florence2_sam2.training.scenes import draw_scene

pytestmark = pytest.mark.parity

ROOT = Path(__file__).resolve().parents[2]
PACKAGED = ROOT / "model_repository" / "florence2" / "1"
CAPTION, GROUNDING = "<MORE_DETAILED_CAPTION>", "<CAPTION_TO_PHRASE_GROUNDING>"
SCENES = [draw_scene(np.random.default_rng(10_000 + seed), 240, 200) for seed in range(2)]
LIMIT = 60  # new tokens


def assert_same_tokens(folder: Path, graphs: Path, spec: manifest.Florence2) -> None:
    """The served answers' tokens are `generate`'s, with the checkpoint's own settings."""
    model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    processor = Florence2Processor.from_pretrained(folder)
    served = Florence2(graphs, spec)
    try:
        for scene in SCENES:
            for text in (CAPTION, GROUNDING + scene.caption):
                inputs = processor(text=text, images=Image.fromarray(scene.image), return_tensors="pt")
                with torch.no_grad():
                    seen = model.get_image_features(inputs["pixel_values"]).pooler_output[0].numpy()
                    own = {"max_new_tokens": LIMIT} if spec.generation.max_new_tokens is None else {}
                    theirs = model.generate(**inputs, **own)[0, 1:].tolist()
                task = CAPTION if text == CAPTION else GROUNDING
                ours = served.submit(seen, task, text.removeprefix(task), scene.image.shape[1::-1]).result()
                assert ours.token_ids.tolist()[: len(theirs)] == theirs
                assert len(ours.token_ids) == len(theirs) or len(theirs) == LIMIT
    finally:
        served.close()


@pytest.fixture
def odd(small_checkpoints: Path, tmp_path: Path) -> Path:
    return copy(small_checkpoints / "florence2", tmp_path / "odd")


GENERATION: dict[str, Callable[[Path], Any]] = {
    "greedy": lambda folder: set_fields(folder, "generation_config.json", num_beams=1, early_stopping=False),
    "no n-gram rule": lambda folder: set_fields(folder, "generation_config.json", no_repeat_ngram_size=0),
    "nothing forced": lambda folder: set_fields(
        folder, "generation_config.json", forced_bos_token_id=None, forced_eos_token_id=None
    ),
    "max_length only": lambda folder: edit(
        folder, "generation_config.json", lambda b: (b.pop("max_new_tokens"), b.update(max_length=16))
    ),
    "another start": lambda folder: set_fields(folder, "generation_config.json", decoder_start_token_id=0),
    "no start": lambda folder: edit(
        folder, "generation_config.json", lambda body: body.pop("decoder_start_token_id")
    ),
    "no padding": lambda folder: edit(
        folder, "generation_config.json", lambda body: body.pop("pad_token_id")
    ),
    "temperature without sampling": lambda folder: set_fields(
        folder, "generation_config.json", temperature=0.7, top_p=0.9, do_sample=False
    ),
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
    "settings in the model's config": lambda folder: (
        (folder / "generation_config.json").unlink(),
        set_fields(
            folder,
            "config.json",
            "text_config",
            num_beams=3,
            no_repeat_ngram_size=3,
            forced_bos_token_id=0,
            forced_eos_token_id=2,
            early_stopping=True,
        ),
    ),
}


@pytest.mark.parametrize(
    "oddity",
    [
        name if name in ("no start", "no generation config") else pytest.param(name, marks=pytest.mark.long)
        for name in GENERATION
    ],
)
def test_odd_generation_settings_decode_as_in_transformers(odd: Path, oddity: str) -> None:
    GENERATION[oddity](odd)
    # The weights are those of the packaged repository, so its graphs are the checkpoint's.
    spec = facts(odd)
    assert spec.source.sha256 == manifest.Florence2.read(PACKAGED).source.sha256, "the demo models are others"
    assert_same_tokens(odd, PACKAGED, spec)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_of_any_precision(odd: Path, dtype: torch.dtype) -> None:
    edit_weights(odd, lambda weights: {key: value.to(dtype) for key, value in weights.items()})
    model = checkpoints.load_florence2(checkpoints.find_checkpoint(str(odd)))
    stored = load_file(odd / WEIGHTS)[SHARED]
    assert stored.dtype == dtype
    assert torch.equal(model.model.language_model.shared.weight, stored.float())


def test_weights_in_several_files_or_in_a_pickle(odd: Path, small_checkpoints: Path, tmp_path: Path) -> None:
    whole = checkpoints.load_florence2(checkpoints.find_checkpoint(str(small_checkpoints / "florence2")))
    torch.save(load_file(odd / WEIGHTS), odd / "pytorch_model.bin")
    (odd / WEIGHTS).unlink()
    sharded = tmp_path / "sharded"
    whole.save_pretrained(sharded, max_shard_size="3MB")
    assert len(list(sharded.glob("*.safetensors"))) > 1
    for folder in (odd, sharded):
        checkpoint = checkpoints.find_checkpoint(str(folder))
        assert len(checkpoint.source.sha256) == 64
        loaded = checkpoints.load_florence2(checkpoint).state_dict()
        assert all(torch.equal(loaded[key], value) for key, value in whole.state_dict().items())


def test_a_head_that_is_stored_is_not_tied(odd: Path) -> None:
    """The config says tied, the file has both and they differ: transformers takes the file's word."""
    edit_weights(odd, lambda weights: weights | {"lm_head.weight": weights[SHARED] * 2})
    model = checkpoints.load_florence2(checkpoints.find_checkpoint(str(odd)))
    assert torch.equal(model.lm_head.weight, 2 * model.model.language_model.shared.weight)


def test_weights_without_a_place_are_named(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = {"classifier.weight": torch.ones(3), "final_logits_bias": torch.zeros(1, 9)}
    edit_weights(odd, lambda weights: weights | more)
    facts(odd)
    assert "2 weights of the file are not a Florence2For" in capsys.readouterr().out


def test_a_tokenizer_without_its_fast_file(odd: Path, small_checkpoints: Path) -> None:
    slow_tokenizer(odd)
    assert facts(odd).tokens == facts(small_checkpoints / "florence2").tokens


@pytest.fixture(scope="module")
def oddest(small_checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A checkpoint with everything at once that needs other graphs, and its exported repository.

    The locations have other ids, a new token stands before them; the embedding has rows that no token has; the head
    is not the embedding; pictures are higher than wide, bilinear, normalised to -1…1; the tokenizer has no fast file.
    """
    folder = copy(small_checkpoints / "florence2", tmp_path_factory.mktemp("oddest") / "odd")
    generator = torch.Generator().manual_seed(0)
    before = facts(folder).tokens
    first, vision = before.location_first, json.loads((folder / "config.json").read_text())["vision_config"]
    stride = math.prod(vision["patch_stride"])

    def change(weights: Weights) -> None:
        table = weights[SHARED].float()
        new, spare = (torch.randn(rows, table.shape[1], generator=generator) for rows in (1, 26))
        moved = torch.cat([table[:first], 0.05 * new, table[first:], 0.05 * spare])
        weights[SHARED] = moved
        for part in ("encoder", "decoder"):
            weights[f"model.language_model.{part}.embed_tokens.weight"] = moved.clone()
        weights["lm_head.weight"] = moved + 0.02 * torch.randn(moved.shape, generator=generator)

    def move(tokenizer: dict[str, Any]) -> None:
        for row in tokenizer["added_tokens"]:
            row["id"] += row["id"] >= first
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary.update({token: id + 1 for token, id in vocabulary.items() if id >= first})
        tokenizer["added_tokens"].append(tokenizer["added_tokens"][-1] | {"content": "<mine>", "id": first})
        tokenizer["added_tokens"].sort(key=lambda row: row["id"])

    edit_weights(folder, change)
    edit(folder, "tokenizer.json", move)
    slow_tokenizer(folder)
    set_fields(folder, "config.json", tie_word_embeddings=False, image_token_id=before.image + 1)
    set_fields(
        folder, "config.json", "text_config", vocab_size=before.vocabulary + 27, tie_word_embeddings=False
    )
    set_fields(
        folder,
        "processor_config.json",
        "image_processor",
        size={"height": 14 * stride, "width": 10 * stride},
        image_seq_length=14 * 10 + 1,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=2,
    )
    repository = folder.parent / "repository"
    rows = export(repository, florence2_checkpoint=str(folder), report=lambda line: None)
    assert all(row.passed for row in rows)
    yield folder, repository
    shutil.rmtree(folder.parent)


def test_an_odd_checkpoint_is_exported_and_decodes_as_in_transformers(oddest: tuple[Path, Path]) -> None:
    folder, repository = oddest
    spec = manifest.read_florence2(repository)
    assert spec.image.height * 10 == spec.image.width * 14
    assert (spec.image.mean, spec.image.resample) == ((0.5, 0.5, 0.5), "bilinear")
    before = manifest.Florence2.read(PACKAGED).tokens
    assert spec.tokens.location_first == before.location_first + 1
    assert spec.tokens.vocabulary == before.vocabulary + 27
    assert_same_tokens(folder, repository / "florence2" / "1", spec)


def test_the_video_models_on_the_hub_are_read(small_checkpoints: Path, tmp_path: Path) -> None:
    """`facebook/sam2.1-hiera-…` are stored as `sam2_video`; the weights of their memory are not needed."""
    picture = Sam2Config.from_pretrained(small_checkpoints / "sam2")
    video = Sam2VideoModel(
        Sam2VideoConfig(
            vision_config=picture.vision_config.to_dict(),
            prompt_encoder_config=picture.prompt_encoder_config.to_dict(),
            mask_decoder_config=picture.mask_decoder_config.to_dict(),
            image_size=picture.prompt_encoder_config.image_size,
            memory_attention_hidden_size=128,
            memory_attention_num_layers=1,
            memory_encoder_hidden_size=128,
            memory_fuser_embed_dim=128,
            mask_downsampler_embed_dim=128,
        )
    )
    video.load_state_dict(load_file(small_checkpoints / "sam2" / WEIGHTS), strict=False)
    video.save_pretrained(tmp_path / "video")
    read = checkpoints.load_sam2(checkpoints.find_checkpoint(str(tmp_path / "video")))
    own = checkpoints.load_sam2(checkpoints.find_checkpoint(str(small_checkpoints / "sam2")))
    assert "memory_encoder" not in dict(read.named_children())
    assert read.state_dict().keys() == own.state_dict().keys()
    assert all(torch.equal(read.state_dict()[key], value) for key, value in own.state_dict().items())
