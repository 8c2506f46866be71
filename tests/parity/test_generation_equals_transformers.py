"""Tokens equal transformers' `generate`, on models whose noisy logits make beams change places all the time.

The models have the small checkpoint's architecture and random weights, exported by the exporter's own functions; the
engine decodes them with its caches, alone and in mixed company.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from florence2_sam2.server import manifest
from florence2_sam2.server.generation.decoder import Decoder
from florence2_sam2.server.generation.engine import Engine
from florence2_sam2.server.generation.settings import resolve

pytestmark = pytest.mark.parity

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "models" / "small" / "florence2"
# Pictures of fewer tokens than the checkpoint's: sums over many of them round so differently in two libraries that
# beams which are nearly as good change places.
SIDE, IMAGE_TOKENS = 128, 65
POSITIONS = 512  # and always as many, or a seed would give other weights than those that are noisy enough
SPEC = replace(
    manifest.Florence2.read(ROOT / "model_repository" / "florence2" / "1"), image_tokens=IMAGE_TOKENS
)
FLORENCE = manifest.Generation(
    num_beams=3, max_new_tokens=40, no_repeat_ngram_size=3, forced_bos=0, forced_eos=2, early_stopping=True
)
EOS = SPEC.tokens.eos


@dataclass
class Noisy:
    """A random model, its engine, and prompts with the features of random pictures."""

    model: Any
    engine: Engine
    jobs: list[tuple[NDArray[np.float32], NDArray[np.int64]]]

    def ours(self, job: int, generation: manifest.Generation, **named: Any) -> Any:
        features, prompt = self.jobs[job]
        return self.engine.submit(features, prompt, resolve(replace(SPEC, generation=generation)), **named)

    def theirs(self, job: int, generation: manifest.Generation) -> list[int]:
        features, prompt = self.jobs[job]
        image = torch.full((len(features),), SPEC.tokens.image)
        language = self.model.model.language_model
        embedded = torch.cat([torch.from_numpy(features), language.shared(torch.from_numpy(prompt))])[None]
        with torch.no_grad():
            encoded = language.encoder(inputs_embeds=embedded)
            sequence = self.model.generate(
                input_ids=torch.cat([image, torch.from_numpy(prompt)])[None],
                encoder_outputs=encoded,
                do_sample=False,
                num_beams=generation.num_beams,
                max_new_tokens=generation.max_new_tokens,
                min_new_tokens=generation.min_new_tokens,
                no_repeat_ngram_size=generation.no_repeat_ngram_size,
                forced_bos_token_id=generation.forced_bos,
                forced_eos_token_id=generation.forced_eos,
                length_penalty=generation.length_penalty,
                **({"early_stopping": generation.early_stopping} if generation.num_beams > 1 else {}),
            )
        tokens: list[int] = sequence[0, 1:].tolist()
        return tokens


def random_model(seed: int) -> Any:
    """Random weights, louder than usual, and an end token that is probable now and then."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.from_pretrained(CHECKPOINT)
    config.text_config.max_position_embeddings = POSITIONS
    model = transformers.Florence2ForConditionalGeneration(config).eval()
    model.generation_config = transformers.GenerationConfig.from_pretrained(CHECKPOINT)
    for name in (
        "early_stopping",
        "num_beams",
        "no_repeat_ngram_size",
        "forced_bos_token_id",
        "forced_eos_token_id",
    ):
        setattr(model.generation_config, name, None)
    with torch.no_grad():
        for name, weight in model.model.language_model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0, 0.25)
            elif "norm" not in name:
                weight.normal_(0, 0.1)
        # What the decoder says on average becomes the end's direction, a bit below the best token's usual logit.
        encoder_states = torch.randn(4, 50, config.text_config.d_model)
        states = model.model.language_model.decoder(
            input_ids=torch.randint(4, 400, (4, 30)), encoder_hidden_states=encoder_states
        ).last_hidden_state.mean(dim=(0, 1))
        model.lm_head.weight[EOS] = 9.5 * states / states.square().sum()
    return model


@pytest.fixture(
    scope="module",
    params=[0, pytest.param(1, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)],
)
def noisy(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Noisy]:
    from florence2_sam2.export import florence2 as exporter
    from florence2_sam2.export.embedding import write_embedding
    from florence2_sam2.export.graphs import write_graph

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("noisy")
    model = random_model(request.param)
    for graph in exporter.graphs(model, replace(SPEC.image, height=SIDE, width=SIDE)):
        if graph.file != exporter.VISION_ENCODER:
            write_graph(graph, folder / Path(graph.file).name, opset=SPEC.opset, form="fp32")
    write_embedding(model, folder, "fp32")
    rng = np.random.default_rng(request.param)
    jobs = []
    for length in rng.integers(3, 60, 8):
        features = rng.normal(0, 1, (SPEC.image_tokens, SPEC.feature_dim)).astype(np.float32)
        prompt = rng.integers(4, SPEC.tokens.location_first, length)
        jobs.append((features, np.array([SPEC.tokens.bos, *prompt, EOS], np.int64)))
    engine = Engine(Decoder(folder, SPEC, max_rows=12))
    yield Noisy(model, engine, jobs)
    engine.close()


SETTINGS = {
    "as Florence-2": FLORENCE,
    "greedy": replace(FLORENCE, num_beams=1),
    "greedy, nothing forced": manifest.Generation(max_new_tokens=30),
    "2 beams": replace(FLORENCE, num_beams=2),
    "8 beams": replace(FLORENCE, num_beams=8, max_new_tokens=20),
    "up to the limit": replace(FLORENCE, min_new_tokens=40),
    "greedy up to the limit": replace(FLORENCE, num_beams=1, min_new_tokens=40),
    "no early stopping": replace(FLORENCE, early_stopping=False),
    "never": replace(FLORENCE, early_stopping="never"),
    "never, short preferred": replace(FLORENCE, early_stopping="never", length_penalty=-0.5),
    "long preferred": replace(FLORENCE, early_stopping=False, length_penalty=2.0),
    "length ignored": replace(FLORENCE, early_stopping=False, length_penalty=0.0),
    "no n-gram rule": replace(FLORENCE, no_repeat_ngram_size=0),
    "bigrams": replace(FLORENCE, no_repeat_ngram_size=2),
    "nothing forced": replace(FLORENCE, forced_bos=None, forced_eos=None, early_stopping=False),
    "at least 10": replace(FLORENCE, min_new_tokens=10, early_stopping=False),
    "one token": replace(FLORENCE, max_new_tokens=1),
    "two tokens": replace(FLORENCE, max_new_tokens=2),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_tokens_equal(noisy: Noisy, name: str) -> None:
    generation = SETTINGS[name]
    for job in range(len(noisy.jobs)):
        assert noisy.ours(job, generation).result().token_ids == noisy.theirs(job, generation), (
            f"prompt {job}"
        )


def test_the_models_are_noisy_enough(noisy: Noisy) -> None:
    """Else the test above says little: answers must differ from prompt to prompt and between settings, and end."""
    beams = [noisy.ours(job, FLORENCE).result().token_ids for job in range(len(noisy.jobs))]
    greedy = [
        noisy.ours(job, replace(FLORENCE, num_beams=1)).result().token_ids for job in range(len(noisy.jobs))
    ]
    assert len({tuple(tokens) for tokens in beams}) >= 5
    assert sum(one != other for one, other in zip(beams, greedy, strict=True)) >= 5
    assert sum(len(tokens) < 40 for tokens in beams) >= 2


def test_tokens_do_not_depend_on_company(noisy: Noisy) -> None:
    rng = np.random.default_rng(0)
    jobs = [
        (int(rng.integers(len(noisy.jobs))), SETTINGS[str(rng.choice(list(SETTINGS)))]) for _ in range(200)
    ]
    alone = [noisy.ours(*job).result().token_ids for job in jobs]
    together = [
        noisy.ours(*job, priority=("interactive", "bulk")[number % 2]) for number, job in enumerate(jobs)
    ]
    for number, future in enumerate(together):
        assert future.result().token_ids == alone[number], f"{jobs[number]}"
