"""A model.py unpacks, calls a plain function and packs; and serving needs neither torch nor transformers."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from florence2_sam2.server.manifest import packaged_repository

REPOSITORY = packaged_repository()
MODELS = sorted(REPOSITORY.glob("*/1/model.py"))
TRAINING_ONLY = {"torch", "torchvision", "transformers", "onnx", "onnxscript"}


def imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module


def served() -> list[Path]:
    packages = ("florence2_sam2.server", "florence2_sam2.postprocess")
    folders = [Path(str(importlib.import_module(name).__file__)).parent for name in packages]
    return MODELS + sorted(path for folder in folders for path in folder.rglob("*.py"))


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.parts[-3])
def test_a_model_is_short_and_has_the_class_that_triton_looks_for(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 120
    assert "TritonPythonModel" in source
    assert ast.get_docstring(ast.parse(source))


@pytest.mark.parametrize("path", served(), ids=lambda path: "/".join(path.parts[-3:]))
def test_serving_imports_neither_torch_nor_transformers(path: Path) -> None:
    roots = {name.split(".")[0] for name in imported(path.read_text(encoding="utf-8"))}
    assert not roots & TRAINING_ONLY
