"""TensorRT's plans: whether a repository has them."""

from __future__ import annotations

from pathlib import Path

from florence2_sam2.server.launch.errors import StartError
from florence2_sam2.server.manifest import PLAN, version_folder


def check_plans(repository: Path) -> None:
    """Every model that has a config for plans has its plan; Triton would say so in the middle of its log.

    Raises:
        StartError: one is missing.
    """
    models = sorted(config.parents[1].name for config in repository.glob("*/configs/tensorrt.pbtxt"))
    missing = [model for model in models if not (version_folder(repository, model) / PLAN).is_file()]
    if missing:
        raise StartError(
            f"--model-config tensorrt serves plans, and {', '.join(missing)} has none: on a GPU of this kind,"
            " `florence2-sam2 export --tensorrt --output REPOSITORY` builds them"
        )
