"""Measure the checkpoints of a model repository through a server of its own: `scripts/quality --help`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bench.arguments import positive
from bench.quality import crowds as many_small
from bench.quality import scenes
from bench.quality.judge import __doc__ as RULES
from bench.quality.report import report_text, rows, to_json
from bench.quality.run import Judged, judge_all
from bench.quality.sheet import contact_sheet, worst
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.errors import StartError


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when every target is met, 1 when one is missed, 2 when the server does not start."""
    options = _options(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        with EmbeddedServer(options.model_repository) as server:
            judged = judge_all(
                server.grpc_address, options.scenes, options.unseen_scenes, options.beams, options.seed
            )
            crowds = many_small.judge_crowds(server.grpc_address, options.crowds, options.seed)
    except StartError as error:
        print(error, file=sys.stderr)
        return 2
    facts = describe(judged, options.beams, options.seed)
    text = f"{facts}\n\n{report_text(judged, options.beams)}"
    if crowds:
        text += f"\n\n{many_small.text(crowds)}"
    print(text)
    (options.output / "quality.md").write_text(text + "\n")
    body = {
        "settings": facts,
        **to_json(judged, options.beams),
        "crowds": many_small.to_json(crowds) if crowds else None,
    }
    (options.output / "quality.json").write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")
    sheet = contact_sheet(worst(judged, options.beams[-1]), options.beams[-1], options.seed)
    sheet.save(options.output / "worst.jpg", quality=90)
    print(
        f"\n{time.monotonic() - start:.0f} s; numbers and the worst scenes: {options.output}", file=sys.stderr
    )
    return int(not all(row.met for beams in options.beams for row in rows(judged, beams)))


def describe(judged: Sequence[Judged], beams: Sequence[int], seed: int) -> str:
    """What was measured and with which settings, as the server named them in its answers."""
    seen = [j for j in judged if not j.held_out]
    answer = seen[0].answers[beams[0]]
    used = answer["parameters"]
    counted = sum(len(j.masks) for j in seen)
    whole = sum(len(j.end_to_end[beams[0]].found) for j in seen)
    unseen = sum(m.unseen for j in judged if j.held_out for m in j.grounding[beams[0]])
    models = ", ".join(
        f"{name} {m['checkpoint']} ({m['sha256'][:12]})" for name, m in answer["models"].items()
    )
    return "\n".join(
        [
            f"{len(seen)} scenes with {counted} things at least half visible, tables included, and "
            f"{len(judged) - len(seen)} with {unseen} things of unseen kind-colour pairs; seed {seed}.",
            f"Models: {models}.",
            "Grounding: Florence-2's boxes before all filters. Masks from true boxes: filters off, exact outlines.",
            f"End to end: the service's defaults, area_threshold {used['area_threshold']:g}, confidence_threshold "
            f"{used['confidence_threshold']:g}, nms_threshold {used['nms_threshold']:g}, polygon_precision "
            f"{used['polygon_precision']:g}; {whole} things whose box is not over the area threshold are asked for.",
            "Intervals: bootstrap over scenes; for shares the wider of that and Wilson's.",
        ]
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/quality",
        description=f"{__doc__}\n\n{RULES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model-repository", type=Path, help="what `export` wrote; default: the packaged one"
    )
    parser.add_argument("--scenes", type=positive, default=500)
    parser.add_argument(
        "--unseen-scenes", type=positive, default=250, help="scenes around pairs kept out of training"
    )
    parser.add_argument(
        "--crowds",
        type=int,
        default=0,
        metavar="N",
        help="pictures of many small things, with and without tiles",
    )
    parser.add_argument("--beams", type=positive, nargs="+", default=[1, 3])
    parser.add_argument("--seed", type=int, default=scenes.SEED, help="of the scenes (default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, default=Path("quality-output"), help="folder (default: %(default)s)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
