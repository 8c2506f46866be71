"""Build, export, check and serve full-size models, and print what that takes.

A broken run is taken up where it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench.fullsize import table
from bench.fullsize.sizes import FLORENCE2, SAM2
from bench.fullsize.steps import StepFailed, Steps

SIZES = (*FLORENCE2, *SAM2)
BASE, TINY = SIZES[0], next(iter(SAM2))
PICTURE = Path(__file__).parents[2] / "docs" / "pictures" / "demo.jpg"

# Memory to serve a pair, as a multiple of its files: onnxruntime holds the weights and rearranged copies of some,
# and a file's bytes while it reads them; besides, the interpreters and activations.
SERVING_FACTOR, SERVING_MB = 2.0, 3000


def main() -> int:
    parser = argparse.ArgumentParser(prog="fullsize", description=__doc__)
    parser.add_argument("folder", type=Path, help="where everything goes, up to 12 GB")
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=SIZES, metavar="SIZE", help=f"default: {' '.join(SIZES)}"
    )
    parser.add_argument("--tidy", action="store_true", help="delete a size's files once nothing needs them")
    parser.add_argument("--no-fp16", action="store_true", help="leave the fp16 exports out")
    arguments = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # of the steps
    job = Job(Steps(arguments.folder.resolve()), tuple(arguments.sizes), arguments.tidy)
    try:
        job.run(fp16=not arguments.no_fp16)
    except StepFailed as error:
        print(f"fullsize: {error}", file=sys.stderr)
        return 1
    finally:
        job.write_table()
    return 0


class Job:
    """The steps for the chosen sizes, in an order that lets files go early."""

    def __init__(self, steps: Steps, sizes: tuple[str, ...], tidy: bool) -> None:
        self.steps = steps
        self.folder = steps.folder
        self.sizes = sizes
        self.tidy = tidy
        self.left_out: list[str] = []

    def pairs(self) -> list[tuple[str, str]]:
        """The smallest with the smallest, each other SAM2 with the smallest Florence-2, the large one with the tiny."""
        florence2 = [name for name in FLORENCE2 if name in self.sizes]
        sam2 = [name for name in SAM2 if name in self.sizes]
        if not florence2 or not sam2:
            return []
        return [(florence2[0], name) for name in sam2] + [(name, sam2[0]) for name in florence2[1:]]

    def exports(self) -> list[str]:
        return [*self.sizes, f"{BASE} fp16", f"{TINY} fp16"]

    def run(self, fp16: bool) -> None:
        jobs: list[tuple[tuple[str, ...], Callable[[], object]]] = [
            (pair, partial(self.serve, *pair)) for pair in self.pairs()
        ]
        served = {name for pair in self.pairs() for name in pair}
        jobs += [((name,), partial(self.export, name)) for name in self.sizes if name not in served]
        if fp16 and {BASE, TINY} <= set(self.sizes):
            jobs.append(((BASE, TINY), self.compare_precisions))
        while jobs:
            names, work = jobs.pop(0)
            work()
            if self.tidy:
                for name in set(names).difference(*(later for later, _ in jobs)):
                    for folder in (self.folder / name, self.exported(name), self.exported(f"{name} fp16")):
                        shutil.rmtree(folder, ignore_errors=True)

    def build(self, name: str) -> Path:
        """The checkpoint; built again if it has been tidied away."""
        if not (self.folder / name).exists():
            self.steps.done.pop(f"build {name}", None)
            unfinished = self.folder / f"{name}.unfinished"
            self.steps.run(f"build {name}", ["bench.fullsize.checkpoints", name, unfinished])
            unfinished.rename(self.folder / name)
        return self.folder / name

    def exported(self, name: str) -> Path:
        return self.folder / "exports" / name.replace(" ", "-")

    def export(self, name: str, precision: str = "fp32") -> Path:
        """A repository with one half, checked against transformers by `export` itself."""
        label = name if precision == "fp32" else f"{name} {precision}"
        output = self.exported(label)
        if not output.exists():
            half = "--florence2" if name in FLORENCE2 else "--sam2"
            self.steps.done.pop(f"export {label}", None)
            command = ["florence2_sam2", "export", half, self.build(name), "--output", output]
            self.steps.run(f"export {label}", [*command, "--precision", precision])
            facts = table.export_facts(output, label)
            self.steps.report(f"export {label}").write_text(json.dumps(facts, indent=1), encoding="utf-8")
        return output

    def joined(self, florence2: Path, sam2: Path, output: Path) -> Path:
        """One repository of two halves; files are linked, not copied."""
        shutil.rmtree(output, ignore_errors=True)
        for folder in sorted(florence2.iterdir()):
            source = sam2 / folder.name if folder.name.startswith("sam2") else folder
            shutil.copytree(source, output / folder.name, copy_function=os.link)
        return output

    def compare_precisions(self) -> None:
        name = f"compare {BASE} {TINY}"
        if name not in self.steps.done:
            wide = self.joined(self.export(BASE), self.export(TINY), self.folder / "fp32")
            narrow = self.joined(self.export(BASE, "fp16"), self.export(TINY, "fp16"), self.folder / "fp16")
            self.steps.run(name, ["bench.fullsize.precision", wide, narrow, PICTURE, self.steps.report(name)])
            shutil.rmtree(wide)
            shutil.rmtree(narrow)

    def serve(self, florence2: str, sam2: str) -> None:
        name, reference = f"serve {florence2} {sam2}", f"reference {florence2} {sam2}"
        if name in self.steps.done:
            return
        expected = self.folder / f"{reference.replace(' ', '-')}.npz"
        if not expected.exists():
            self.steps.done.pop(reference, None)
            checkpoints = [self.build(florence2), self.build(sam2)]
            # One caption of each Florence-2 is enough.
            first = next(pair for pair in self.pairs() if pair[0] == florence2)
            parts = [] if first == (florence2, sam2) else ["masks"]
            command = ["bench.fullsize.serving", "reference", *checkpoints, PICTURE, expected, *parts]
            self.steps.run(reference, command)
        halves = self.export(florence2), self.export(sam2)
        needed = SERVING_MB + SERVING_FACTOR * sum(
            file.stat().st_size / 2**20 for half in halves for file in half.rglob("*.onnx*")
        )
        if needed > available_mb():
            self.left_out.append(
                f"{florence2} + {sam2} was not served: it takes about {needed / 1024:.0f} GB of memory,"
                f" {available_mb() / 1024:.0f} GB are free."
            )
            return
        repository = self.joined(*halves, self.folder / "served")
        try:
            self.steps.run(
                name,
                ["bench.fullsize.serving", "serve", repository, PICTURE, expected, self.steps.report(name)],
            )
        finally:
            shutil.rmtree(repository)

    def write_table(self) -> None:
        text = table.describe(self.steps, self.exports(), self.pairs(), self.left_out)
        (self.folder / "table.md").write_text(text, encoding="utf-8")
        print(text)


def available_mb() -> float:
    """Memory that a new process can have without swapping."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 1024


if __name__ == "__main__":
    sys.exit(main())
