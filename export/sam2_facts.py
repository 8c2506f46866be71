"""What a SAM2 checkpoint decides besides its weights: the picture's size and normalisation."""

from __future__ import annotations

from typing import Any

from transformers import Sam2Model

from florence2_sam2.export.checkpoints import Checkpoint
from florence2_sam2.export.errors import ExportError
from florence2_sam2.export.graphs import Precision
from florence2_sam2.export.image_config import STEPS, require_bytes_to_unit, triple
from florence2_sam2.server.manifest import ImageSpec, Sam2

# ImageNet's, which all released SAM2 checkpoints use.
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)
_BILINEAR = 2  # PIL.Image.Resampling.BILINEAR


def read_image(checkpoint: Checkpoint, model: Sam2Model) -> ImageSpec:
    """From preprocessor_config.json or processor_config.json; the defaults where the checkpoint has neither.

    The size is the model's own: features of another size do not fit the mask decoder.
    """
    prompt: Any = model.config.prompt_encoder_config
    size = prompt.image_size
    processor = checkpoint.read_json("processor_config.json").get("image_processor")
    config = processor or checkpoint.read_json("preprocessor_config.json")
    wanted = config.get("size") or {}
    stated = (wanted.get("height", size), wanted.get("width", size))
    if stated != (size, size):
        raise ExportError(
            f"SAM2's processor resizes to {stated[0]}×{stated[1]}, its model takes {size}×{size}"
        )
    left_out = [name for name in STEPS if config.get(name) is False]
    if left_out or config.get("resample", _BILINEAR) not in (_BILINEAR, None):
        raise ExportError(
            "SAM2's processor does not just resize (bilinear), rescale and normalise "
            f"({', '.join(left_out) or 'resample'}): the server does only that"
        )
    require_bytes_to_unit(config)
    return ImageSpec(
        size, size, triple(config, "image_mean", _MEAN), triple(config, "image_std", _STD), "bilinear"
    )


def read_manifest(
    checkpoint: Checkpoint, image: ImageSpec, mask_size: int, precision: Precision, opset: int
) -> Sam2:
    """The manifest without files and parity."""
    return Sam2(
        source=checkpoint.source,
        precision=precision,
        opset=opset,
        image=image,
        mask_size=mask_size,
    )
