"""Mask logits to polygons: fifty objects on twelve megapixels (bench/postprocess.py)."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.speed.bench import Bench
from bench.speed.machine import ROOT
from bench.speed.results import Result, Row, Table

LEAST, MOST_MB = 10.0, 150.0


def run(bench: Bench) -> Result:
    report = bench.output / "postprocess-raw.json"
    bench.output.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "bench.postprocess", "--json", str(report.resolve())]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    told = json.loads(report.read_text(encoding="utf-8"))
    ways, differing = told["ways"], told["differing_pixels"]
    ours = ways["cropped"]
    # The way of SAM2's own code first; OpenCV's resizing, with other rounding, is what a careful user would take.
    plain = {"torch": ways["whole_torch"], "OpenCV": ways["whole_opencv"]}
    rows = [
        Row(
            f"masks and polygons of 50 objects, 12 MP, against {name} at full size",
            way["seconds"] / ours["seconds"],
            "×",
            LEAST,
        )
        for name, way in plain.items()
    ]
    rows += [
        Row("  its extra memory", ours["megabytes"], "MB", MOST_MB, True),
        Row(
            "  pixels unlike the same arithmetic on the whole picture",
            differing["own arithmetic"],
            "pixels",
            0,
            True,
        ),
        Row("  pixels unlike torch's, of 600 million", differing["torch"], "pixels"),
    ]
    lines = [
        [name, f"{way['seconds'] / ours['seconds']:.1f}", f"{way['megabytes']:.0f}"]
        for name, way in ways.items()
    ]
    stages = ", ".join(f"{name} {milliseconds:.0f} ms" for name, milliseconds in told["stages_ms"].items())
    table = Table(
        "Post-processing, processor time of one core",
        ["way", "time, relative", "extra memory, MB"],
        lines,
        f"{stages}.",
    )
    return Result(rows, [table], told)
