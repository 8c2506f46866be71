"""`bench/fullsize`: the released configurations and ids, and steps that are measured and not repeated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Florence2Config, Florence2ForConditionalGeneration, Sam2Config, Sam2Model

from bench.fullsize import sizes, table
from bench.fullsize.steps import Measured, StepFailed, Steps
from bench.fullsize.tokenizer import make_tokenizer

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


def millions(model: torch.nn.Module) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


@pytest.mark.parametrize("name", FLORENCE2)
def test_florence2_has_the_released_number_of_parameters(name: str) -> None:
    size = sizes.FLORENCE2[name]
    config = Florence2Config(vision_config=size.vision_config(), text_config=size.text_config())
    with torch.device("meta"):
        model = Florence2ForConditionalGeneration(config)
    assert millions(model) == pytest.approx(FLORENCE2[name], rel=0.01)


@pytest.mark.parametrize("name", SAM2)
def test_sam2_has_the_released_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        model = Sam2Model(Sam2Config(vision_config=sizes.SAM2[name].vision_config()))
    assert millions(model) + MEMORY == pytest.approx(SAM2[name], abs=0.1)


def test_ids_are_laid_out_as_released() -> None:
    tokenizer = make_tokenizer()
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


def test_steps_are_measured_and_run_once(tmp_path: Path) -> None:
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
            Steps(tmp_path / "run").run("one", ["work", "a"])
        steps = Steps(tmp_path / "run")
        for _ in range(2):
            with pytest.raises(StepFailed, match="two failed"):
                steps.run("two", ["work", "x"])
    assert marks.read_text() == "axx"
    assert list(Steps(tmp_path / "run").done) == ["one"]
    assert steps.done["one"].peak_mb > 150
    assert 0 < steps.done["one"].cpu_seconds <= 2 * steps.done["one"].seconds + 1


def test_the_table_tells_what_was_measured(tmp_path: Path) -> None:
    steps = Steps(tmp_path)
    names = ("export florence2-base", "serve florence2-base sam2.1-hiera-tiny", "compare both")
    steps.done = {name: Measured(61.2, 100.4, 2048) for name in names}
    told = [
        {"files_mb": {"a": 100.4, "b": 20.0}, "largest_error": 1.2e-5},
        {
            "ready_seconds": 20.3,
            "used": {"now_mb": 1024, "peak_mb": 2048},
            "boxes_seconds": 3.0,
            "iou": [1.0, 0.5],
        },
        [
            {
                "graph": "m/1/model.onnx",
                "output": "y",
                "max_abs": 0.01,
                "relative": 1e-3,
                "agreement": "all equal",
            }
        ],
    ]
    told[1] |= {"score_error": 3e-7}
    for name, body in zip(names, told, strict=True):
        steps.report(name).write_text(json.dumps(body))
    pairs = [("florence2-base", "sam2.1-hiera-tiny"), ("florence2-large", "sam2.1-hiera-tiny")]
    text = table.describe(steps, ["florence2-base", "florence2-large"], pairs, ["One did not fit."])
    assert "| florence2-base | 61 s | 100 s | 2.0 GB | 100 + 20 = 120 MB | 1.2e-05 |" in text
    assert (
        "| florence2-base + sam2.1-hiera-tiny | 20 s | 1.0 GB (2.0) |  | 3.0 s |  | 0.5000 | 3e-07 |" in text
    )
    assert "| m | y | 1.0e-02 | 1.0e-03 | all equal |" in text
    assert "florence2-large" not in text
    assert text.endswith("One did not fit.\n")
