"""What is measured: checkpoints, their export, and for full-size random weights a repository with two changes.

Random weights neither end a text nor find a box. So both texts have a fixed length (the checkpoint's generation
settings, in the manifest here and in the generation config of the reference), and after its grounding has been
generated, `segment` goes on with eight boxes of ours (`fixed_boxes.py`), as the reference does. Nothing else differs
from what `export` wrote: one call is timed, with all it does.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.speed import fixed_boxes
from florence2_sam2.server import manifest

ROOT = Path(__file__).parents[2]
TOKENS = 100  # of the caption, and of the grounding
MODEL = '''"""segment's own model (served.py), which goes on with fixed boxes where grounding has found its own."""

import fixed_boxes
import served

TritonPythonModel = fixed_boxes.model_with_fixed_boxes(served)
'''
KEEP_ALL = {"area_threshold": 1.0, "confidence_threshold": 0.0, "nms_threshold": 1.0}


@dataclass(frozen=True)
class Subject:
    """Two checkpoints and the repository with their export.

    `tokens`: what both texts are forced to; None: they end where they end, and boxes are the model's own.
    `request`, `reference`: settings of each call, on both sides.
    """

    name: str
    title: str
    florence2: Path
    sam2: Path
    repository: Path
    tokens: int | None = None
    picture_size: tuple[int, int] = (320, 320)
    request: dict[str, Any] = field(default_factory=lambda: {"formats": ["rle"]})
    reference: dict[str, Any] = field(default_factory=dict)
    steps: Path | None = None  # bench/fullsize's folder

    @property
    def is_full(self) -> bool:
        return self.name == "full"


def small(repository: Path | None = None) -> Subject:
    """The small checkpoints, freely generated. `repository`: another export of them than the packaged one."""
    return Subject(
        "small",
        "Small checkpoints, texts freely generated, boxes their own",
        ROOT / "models" / "small" / "florence2",
        ROOT / "models" / "small" / "sam2",
        repository or manifest.packaged_repository(),
    )


def full(folder: Path) -> Subject:
    """Florence-2-base and SAM2.1-hiera-tiny, built and exported by bench/fullsize where `folder` lacks them."""
    from bench.fullsize.__main__ import BASE, TINY, Job
    from bench.fullsize.steps import Steps

    job = Job(Steps(folder), (BASE, TINY), tidy=False)
    checkpoints = job.build(BASE), job.build(TINY)
    served = job.joined(job.export(BASE), job.export(TINY), folder / "speed")
    subject = Subject(
        "full",
        f"Florence-2-base and SAM2.1-hiera-tiny, true configurations, seeded weights, {TOKENS} + {TOKENS} tokens,"
        f" {len(fixed_boxes.PLACES)} boxes",
        *checkpoints,
        served,
        picture_size=(1024, 768),
        steps=folder,
    )
    return forced(subject, TOKENS)


def forced(subject: Subject, tokens: int, copy_to: Path | None = None) -> Subject:
    """`subject` with texts of `tokens` tokens and fixed boxes.

    Its repository is changed in place, or with `copy_to` a copy there. Outlines of random masks take longer than
    those of any object, so what is asked for is run lengths and the flattened mask.
    """
    repository = linked_copy(subject.repository, copy_to) if copy_to else subject.repository
    force_length(repository, tokens)
    fix_boxes(repository)
    return replace(
        subject,
        title=subject.title
        if subject.is_full
        else f"Small checkpoints, {tokens} + {tokens} tokens, fixed boxes",
        repository=repository,
        tokens=tokens,
        request={"formats": ["rle"], "output_mask": True, **KEEP_ALL},
        reference=KEEP_ALL,
    )


def linked_copy(source: Path, target: Path) -> Path:
    """A copy of a folder whose files are links where the disk allows it: replace them, never write into them."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:  # another disk
            shutil.copy2(one, other)

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def force_length(repository: Path, tokens: int) -> None:
    """Let both texts have `tokens` tokens, in the manifest of a copy."""
    folder = manifest.version_folder(repository, "florence2")
    spec = manifest.Florence2.read(folder)
    generation = replace(spec.generation, min_new_tokens=tokens, max_new_tokens=tokens)
    (folder / manifest.MANIFEST).unlink()  # it may be a link to the original
    replace(spec, generation=generation).write(folder)


def fix_boxes(repository: Path) -> None:
    """Put `segment`'s model into one that uses fixed boxes, in a copy."""
    folder = manifest.version_folder(repository, "segment")
    (folder / "model.py").rename(folder / "served.py")
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    shutil.copy(fixed_boxes.__file__, folder / "fixed_boxes.py")
