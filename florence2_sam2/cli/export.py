"""`florence2-sam2 export`: Florence-2 and SAM2 checkpoints → a model repository for Triton."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from florence2_sam2.cache import exporting
from florence2_sam2.hub.download import pinned
from florence2_sam2.hub.errors import HubError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--florence2",
        metavar="CHECKPOINT",
        help="folder, or NAME[@REVISION] on the hub, e.g. florence-community/Florence-2-base-ft",
    )
    parser.add_argument(
        "--sam2",
        metavar="CHECKPOINT",
        help="folder, NAME[@REVISION] on the hub, e.g. facebook/sam2.1-hiera-tiny, or one of Meta's .pt files",
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
        "--decoder-weights",
        choices=("float", "int8"),
        default="float",
        help="of Florence-2's text decoder: as --precision says, or 8-bit (default: %(default)s)",
    )
    parser.add_argument(
        "--attention",
        choices=("fused", "parts"),
        help="of fp32 encoders: one operator of onnxruntime, or parts that TensorRT knows too"
        " (default: what runs faster on this machine)",
    )
    parser.add_argument(
        "--tensorrt",
        action="store_true",
        help="also let trtexec build TensorRT's plans on the GPU that is here; without checkpoints: of a repository"
        " that is there",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=range(17, 21),
        default=18,
        help="ONNX operator set (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.tensorrt and arguments.florence2 is None and arguments.sam2 is None:
        return _add_plans(arguments.output)
    missing = exporting.missing_packages()
    if missing:
        return _fail(f"{', '.join(missing)} missing: pip install 'florence2-sam2[export]'")
    try:
        # Both before the first is exported: a mistake in the second name must not cost minutes.
        florence2, sam2 = (
            pinned(given, print) if given is not None else None
            for given in (arguments.florence2, arguments.sam2)
        )
    except HubError as error:
        return _fail(str(error))
    # torch and transformers take seconds to import, and the other commands do without them
    from transformers.utils.logging import disable_progress_bar

    from florence2_sam2.export.errors import ExportError
    from florence2_sam2.export.run import export

    disable_progress_bar()  # progress is printed by part; a bar for each file of weights hides it
    try:
        export(
            arguments.output,
            florence2_checkpoint=florence2,
            sam2_checkpoint=sam2,
            precision=arguments.precision,
            decoder_weights=arguments.decoder_weights,
            opset=arguments.opset,
            attention=arguments.attention,
            plans=arguments.tensorrt,
        )
    except ExportError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"writing {arguments.output} failed: {error}")
    return 0


def _add_plans(output: Path) -> int:
    from florence2_sam2.export.errors import ExportError
    from florence2_sam2.export.tensorrt import add_plans

    try:
        add_plans(output)
    except ExportError as error:
        return _fail(str(error))
    except OSError as error:
        return _fail(f"writing {output} failed: {error}")
    return 0


def _fail(message: str) -> int:
    print(f"florence2-sam2 export: {message}", file=sys.stderr)
    return 1
