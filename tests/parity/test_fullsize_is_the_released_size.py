"""`bench/fullsize`: the released configurations and ids, and steps that are measured and not repeated."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, Sam2Config, Sam2Model

pytestmark = pytest.mark.parity

# Millions of parameters: Florence-2's model cards (0.23 B and 0.77 B), and the table in SAM2's README, whose models
# have 7.5 M for the memory of videos besides.
FLORENCE2 = {"florence2-base": 230, "florence2-large": 770}
SAM2 = {
    "sam2.1-hiera-tiny": 38.9,
    "sam2.1-hiera-small": 46.0,
    "sam2.1-hiera-base-plus": 80.8,
    "sam2.1-hiera-large": 224.4,
}
MEMORY = 7.5


@pytest.fixture(scope="module")
def fullsize() -> Iterator[Any]:
    """The modules of `bench/fullsize`. `bench` is no package: its folder is put on the path meanwhile."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    try:
        from fullsize import sizes, steps, tokenizer

        yield SimpleNamespace(sizes=sizes, steps=steps, tokenizer=tokenizer)
    finally:
        sys.path.pop(0)


def millions(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize("name", FLORENCE2)
def test_florence2_has_the_released_number_of_parameters(fullsize: Any, name: str) -> None:
    size = fullsize.sizes.FLORENCE2[name]
    config = Florence2Config(vision_config=size.vision_config(), text_config=size.text_config())
    with torch.device("meta"):
        model = Florence2ForConditionalGeneration(config)
    assert millions(model) == pytest.approx(FLORENCE2[name], rel=0.01)


@pytest.mark.parametrize("name", SAM2)
def test_sam2_has_the_released_number_of_parameters(fullsize: Any, name: str) -> None:
    with torch.device("meta"):
        model = Sam2Model(Sam2Config(vision_config=fullsize.sizes.SAM2[name].vision_config()))
    assert millions(model) + MEMORY == pytest.approx(SAM2[name], abs=0.1)


def test_ids_are_laid_out_as_released(fullsize: Any) -> None:
    tokenizer = fullsize.tokenizer.make_tokenizer()
    wanted = {
        "<s>": 0,
        "<pad>": 1,
        "</s>": 2,
        "<unk>": 3,
        "<mask>": 50264,
        "<loc_0>": 50269,
        "<loc_999>": 51268,
    }
    wanted |= {"<od>": 50265, "<and>": 51288, "<image>": 51289}
    assert {token: tokenizer.convert_tokens_to_ids(token) for token in wanted} == wanted
    assert len(tokenizer) == 51290
    text = "Locate the phrases in the caption: a café, 日本"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_steps_are_measured_and_run_once(fullsize: Any, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    (tmp_path / "work.py").write_text(
        "import pathlib, sys\n"
        "block = bytearray(150_000_000)\n"
        f"with pathlib.Path({str(marks)!r}).open('a') as file: file.write(sys.argv[1])\n"
        "sys.exit(sys.argv[1] == 'x')\n"
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(tmp_path))
        for _ in range(2):
            fullsize.steps.Steps(tmp_path / "run").run("one", ["work", "a"])
        steps = fullsize.steps.Steps(tmp_path / "run")
        for _ in range(2):
            with pytest.raises(fullsize.steps.StepFailed, match="two failed"):
                steps.run("two", ["work", "x"])
    assert marks.read_text() == "axx"
    assert list(fullsize.steps.Steps(tmp_path / "run").done) == ["one"]
    assert steps.done["one"].peak_mb > 150
    assert 0 < steps.done["one"].cpu_seconds <= 2 * steps.done["one"].seconds + 1
