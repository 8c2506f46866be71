"""Check and measure on a GPU what could not be seen without one.

    scripts/gpu                small checkpoints: where nodes run, exports, answers against the CPU's, times, memory
    scripts/gpu --full FOLDER  Florence-2-base and SAM2.1-hiera-tiny of random weights, in scripts/fullsize's folder
    scripts/gpu --check        what needs no GPU: operators, precision and configs of both exports
    scripts/gpu --list         name the parts and leave

Exit status: 0 all bounds kept, 1 one missed, 2 a part failed, or there is no GPU.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu.job import Job
from bench.gpu.machine import gpus
from bench.speed import machine, report
from bench.speed.recording import all_kept, recorded
from florence2_sam2.server.onnx_session import CPU, CUDA

PARTS = ("checks", "device", "parity", "encoders", "decoder", "plans", "serving")
CHECKS = ("checks",)  # need no GPU
OUTPUT = Path("gpu-output")
RESULTS = machine.ROOT / "bench" / "RESULTS.md"
SMALL = machine.ROOT / "models" / "small"
REMARK = "Times are medians; encoders' and decoders' are those of a process that does nothing else."


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    if options.list:
        for name in PARTS:
            print(f"{name:10}{(_part(name).__doc__ or '').splitlines()[0]}")
        return 0
    chosen = [name for name in PARTS if name in (options.only or (CHECKS if options.check else PARTS))]
    if options.provider != CPU and not set(chosen) <= set(CHECKS) and not gpus():
        print(
            "scripts/gpu: nvidia-smi shows no GPU here; what needs none is checked by scripts/gpu --check",
            file=sys.stderr,
        )
        return 2
    name, title, job = _job(options)
    settings = {"subject": name, "quick": options.quick, "provider": options.provider}
    settings["repository"] = str(options.repository or options.full or "small checkpoints")
    for part in chosen:
        recorded(part, settings, functools.partial(_part(part).run, job), lambda: None).write(job.output)
    parts = all_kept(job.output, PARTS, settings)
    now = [ran for ran in parts if ran.piece in chosen]
    print(report.terminal(title, now))
    if not (options.no_results or options.quick or options.check or options.provider == CPU):
        missing = [part for part in PARTS if part not in [ran.piece for ran in parts]]
        if missing:
            print(f"{options.results} stays as it is: no result yet of {', '.join(missing)}", file=sys.stderr)
        else:
            body = report.section(title, parts, kind="gpu", remark=REMARK)
            report.write_section(options.results, name, body.replace("## Gpu:", "## GPU:", 1), "gpu")
            print(f"written into {options.results}", file=sys.stderr)
    if any(ran.error for ran in now):
        return 2
    return int(any(row.met is False for ran in now for row in ran.result.rows))


def _job(options: argparse.Namespace) -> tuple[str, str, Job]:
    if options.full is None:
        name, title = "small", "Small checkpoints"
        florence2, sam2 = SMALL / "florence2", SMALL / "sam2"
    else:
        from bench.fullsize.__main__ import BASE, TINY
        from bench.fullsize.__main__ import Job as Fullsize
        from bench.fullsize.steps import Steps

        name, title = "full", "Florence-2-base and SAM2.1-hiera-tiny, true configurations, random weights"
        built = Fullsize(Steps(options.full.resolve()), (BASE, TINY), tidy=False)
        florence2, sam2 = built.build(BASE), built.build(TINY)
    output = (options.output / name).resolve()
    output.mkdir(parents=True, exist_ok=True)
    job = Job(
        str(florence2),
        str(sam2),
        output,
        options.provider,
        fixed_boxes=options.full is not None,
        given=options.repository.resolve() if options.repository else None,
        quick=options.quick,
    )
    return name, title, job


def _part(name: str) -> Any:
    return importlib.import_module(f"bench.gpu.parts.{name}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--list", action="store_true", help="name the parts and leave")
    parser.add_argument("--check", action="store_true", help="only what needs no GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help="these parts (default: all)")
    parser.add_argument("--full", type=Path, metavar="FOLDER", help="full size; folder of scripts/fullsize")
    parser.add_argument(
        "--repository", type=Path, metavar="FOLDER", help="this export in place of two of the script's own"
    )
    parser.add_argument(
        "--provider",
        default=CUDA,
        help="of onnxruntime (default: %(default)s); with the CPU's nothing is written",
    )
    parser.add_argument("--quick", action="store_true", help="as few repeats as show that it works")
    parser.add_argument(
        "--output",
        type=Path,
        default=OUTPUT,
        metavar="FOLDER",
        help="exports and every value (default: %(default)s)",
    )
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="FILE", help="whose section is replaced"
    )
    parser.add_argument(
        "--no-results", action="store_true", help="only print; --quick and --check never write"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
