"""`florence2-sam2 export`: Florence-2 and SAM2 checkpoints → a model repository for Triton."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

_NEEDED = ("torch", "transformers", "onnx", "onnxruntime")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--florence2",
        metavar="CHECKPOINT",
        help="folder or hub id, e.g. florence-community/Florence-2-base-ft",
    )
    parser.add_argument(
        "--sam2", metavar="CHECKPOINT", help="folder or hub id, e.g. facebook/sam2.1-hiera-tiny"
    )
    parser.add_argument(
        "--output",
        metavar="REPOSITORY",
        type=Path,
        required=True,
        help="folder to write; one that `export` wrote gets the given half replaced",
    )
    parser.add_argument(
        "--precision",
        choices=("fp32", "fp16"),
        default="fp32",
        help="weights and arithmetic (default: %(default)s)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=range(17, 21),
        default=18,
        help="ONNX operator set (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return _fail(f"{', '.join(missing)} missing: pip install 'florence2-sam2[export]'")
    # torch and transformers take seconds to import, and the other commands do without them
    from transformers.utils.logging import disable_progress_bar

    from florence2_sam2.export.errors import ExportError
    from florence2_sam2.export.run import export

    disable_progress_bar()  # progress is printed by part; a bar for each file of weights hides it
    try:
        export(
            arguments.output,
            florence2_checkpoint=arguments.florence2,
            sam2_checkpoint=arguments.sam2,
            precision=arguments.precision,
            opset=arguments.opset,
        )
    except ExportError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"writing {arguments.output} failed: {error}")
    return 0


def _fail(message: str) -> int:
    print(f"florence2-sam2 export: {message}", file=sys.stderr)
    return 1
