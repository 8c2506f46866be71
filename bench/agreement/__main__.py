"""Export a checkpoint in fp32 and with the 8-bit decoder, compare what both write: `scripts/agreement --help`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.agreement.ask import image_features, written
from bench.agreement.judge import __doc__ as RULES
from bench.agreement.judge import compare
from bench.agreement.report import agreement_table, put, section
from bench.arguments import positive
from bench.quality import scenes
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.graphs import DecoderWeights
from florence2_sam2.export.run import export
from florence2_sam2.server import manifest

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when it was measured, 1 when the checkpoint cannot be exported."""
    options = _options(arguments)
    start = time.monotonic()
    try:
        repositories = [_exported(options, weights) for weights in ("float", "int8")]
    except ExportError as error:
        print(f"agreement: {error}", file=sys.stderr)
        return 1
    drawn = [scenes.draw(number, seed=options.seed) for number in range(options.scenes)]
    features = image_features(repositories[0], drawn)
    compared = {}
    for beams in options.beams:
        sides = (written(repository, drawn, features, beams) for repository in repositories)
        compared[beams] = [compare(*pair) for pair in zip(*sides, strict=True)]
    text = agreement_table(compared)
    print(text)
    if options.results is not None:
        checkpoint = manifest.read_florence2(repositories[0]).source
        today = datetime.now(UTC).date()
        put(options.results, section(checkpoint, options.scenes, today, text))
    print(f"\n{time.monotonic() - start:.0f} s; the exports: {options.output}", file=sys.stderr)
    return 0


def _exported(options: argparse.Namespace, weights: DecoderWeights) -> Path:
    repository: Path = options.output / weights
    export(  # in place of what an earlier run left there; it refuses any other folder
        repository,
        florence2_checkpoint=str(options.florence2),
        decoder_weights=weights,
        report=lambda line: print(line, file=sys.stderr),
    )
    return repository


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/agreement",
        description=f"{__doc__}\n\n{RULES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--florence2",
        type=Path,
        default=ROOT / "models" / "small" / "florence2",
        help="folder of the checkpoint (default: the small one)",
    )
    parser.add_argument("--scenes", type=positive, default=100)
    parser.add_argument("--beams", type=positive, nargs="+", default=[1, 3])
    parser.add_argument("--seed", type=int, default=scenes.SEED, help="of the scenes (default: %(default)s)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("agreement-output"),
        help="folder for exports (default: %(default)s)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FILE",
        default=ROOT / "bench" / "RESULTS.md",
        help="file whose section is written anew (default: bench/RESULTS.md)",
    )
    parser.add_argument(
        "--no-results", dest="results", action="store_const", const=None, help="only print the table"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
