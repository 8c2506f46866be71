"""The model repository as a folder: the packaged one copied without its models, and the finished one put in place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from florence2_sam2.export.errors import ExportError
from florence2_sam2.server.manifest import (
    MANIFEST,
    PLAN,
    Exported,
    Florence2,
    ManifestError,
    Sam2,
    external_data,
    packaged_repository,
)

_MODELS = ("segment", "florence2", "sam2")  # any repository of ours has these folders
_GENERATED = (
    "*.onnx",
    "*.onnx.data",
    "*.npy",
    MANIFEST,
    "tokenizer.json",
    "*.plan",
    "__pycache__",
    "__init__.py",
)


def require_usable(output: Path) -> None:
    """Raises ExportError when `output` exists and is not a repository that `export` wrote."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    manifests = [output / "florence2" / "1" / MANIFEST, output / "sam2" / "1" / MANIFEST]
    if not all((output / model / "config.pbtxt").is_file() for model in _MODELS) or not any(
        manifest.is_file() for manifest in manifests
    ):
        raise ExportError(
            f"--output {output} exists and is not a repository that `export` wrote: choose another folder"
        )
    readers: tuple[type[Exported], ...] = (Florence2, Sam2)
    for reader, manifest in zip(readers, manifests, strict=True):
        if manifest.is_file():
            try:
                reader.read(manifest.parent)
            except ManifestError as error:
                raise ExportError(
                    f"--output {output} holds a repository that cannot be extended: {error}"
                ) from None


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A repository to work on, in a temporary folder beside `output`; takes `output`'s place when the block ends well.

    It starts as a copy of `output` if that exists, else of the packaged repository without its models. When the block
    raises, nothing is left behind and `output` is as before.
    """
    output = output.absolute()
    require_usable(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}-", dir=output.parent) as temporary:
        stage = Path(temporary) / "repository"
        if output.exists() and any(output.iterdir()):
            shutil.copytree(output, stage, copy_function=_link_or_copy)
        else:
            shutil.copytree(packaged_repository(), stage, ignore=shutil.ignore_patterns(*_GENERATED))
            for model in stage.iterdir():
                # Triton wants a version folder for an ensemble too, and an empty one may get lost on the way.
                (model / "1").mkdir(exist_ok=True)
        yield stage
        replaced = Path(temporary) / "replaced"
        if output.exists():
            output.rename(replaced)
        try:
            stage.rename(output)
        except OSError:
            if replaced.exists():
                replaced.rename(output)
            raise


def remove_graph(path: Path) -> None:
    """Remove an ONNX file, its external data and its plan. Never write over them: the repository that the stage is a
    copy of may share their contents."""
    for file in (path, external_data(path), path.with_name(PLAN)):
        file.unlink(missing_ok=True)


def _link_or_copy(source: str, target: str) -> str:
    """Weights of the half that stays are linked, not copied: they can be gigabytes."""
    if source.endswith((".onnx", ".onnx.data", ".npy", ".plan")):
        try:
            os.link(source, target)
            return target
        except OSError:
            pass  # another file system, or one without links
    return shutil.copy2(source, target)
