"""Make the documentation's pictures through a server of its own: `scripts/pictures --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from bench.pictures import browser
from bench.pictures.drawings import DRAWINGS
from florence2_sam2.client import Segmenter
from florence2_sam2.server.launch.embedded import EmbeddedServer
from florence2_sam2.server.launch.errors import StartError

OUTPUT = Path(__file__).resolve().parents[2] / "docs" / "pictures"
SCREENSHOTS = {"playground": browser.playground, "report": browser.report}
QUALITY = 86


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all are made, 2 when the server does not start."""
    options = _options(arguments)
    options.output.mkdir(parents=True, exist_ok=True)

    def save(name: str, image: Image.Image) -> None:
        file = options.output / f"{name}.jpg"
        image.save(file, quality=QUALITY, optimize=True)
        print(f"{file}  {image.width}×{image.height}, {file.stat().st_size / 1000:.0f} kB", flush=True)

    try:
        with EmbeddedServer() as server, Segmenter(server.grpc_address) as client:
            for name in options.only:
                save(name, DRAWINGS[name](client) if name in DRAWINGS else SCREENSHOTS[name](server))
    except StartError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/pictures", description=__doc__)
    names = [*DRAWINGS, *SCREENSHOTS]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    parser.add_argument(
        "--output", type=Path, default=OUTPUT, metavar="FOLDER", help="(default: docs/pictures)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
