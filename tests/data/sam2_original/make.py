"""Makes the data in this folder with Meta's own SAM2 code, once, in an environment of its own.

    PYTHONPATH=<a checkout of facebookresearch/sam2> python make.py

Meta's code is no package of a registry (`sam2` on PyPI is a third party's fork), and the project does not need it:
the tests read what this wrote. Made with facebookresearch/sam2 at commit
2b90b9f5ceec907a1c18123530e92e794ad901a4 and Python 3.11, torch 2.14.1, torchvision 0.29.1, hydra-core 1.3.2,
iopath 0.1.10, numpy 2.4. It takes some minutes on one core and 4 GB.

    layouts.json            names and shapes of the state dicts: what every file has, what only SAM2.1 has, each trunk
    <version>_<size>.npz    what Meta's image predictor gives for each configuration on seeded weights and inputs; its
                            low resolution logits are cut at ±32
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sam2  # noqa: F401 (its import tells hydra where the configurations are)
import torch
import torchvision
from sam2.build_sam import build_sam2
from sam2.sam2_image_predictor import SAM2ImagePredictor
from sam2.utils.transforms import SAM2Transforms

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent / "parity"))

import seeded_sam2 as seeded  # noqa: E402 (found by the line above)

COMMIT = "2b90b9f5ceec907a1c18123530e92e794ad901a4"
CONFIGS = {"tiny": "t", "small": "s", "base_plus": "b+", "large": "l"}
PHOTOGRAPH = (600, 800)  # height, width
PHOTOGRAPH_SCALE = 0.5  # of the boxes, which are made for a picture of 1024


class AsItIs(SAM2Transforms):
    """Hands the model a tensor that is resized and normalised already."""

    def __init__(self, pixels: torch.Tensor) -> None:
        super().__init__(resolution=seeded.PICTURE, mask_threshold=0.0)
        self.pixels = pixels

    def __call__(self, image: Any) -> torch.Tensor:
        return self.pixels


def config(version: str, size: str) -> str:
    return f"configs/{version}/{version}_hiera_{CONFIGS[size]}.yaml"


def write_layouts() -> None:
    whole = {
        (version, size): {
            name: list(tensor.shape)
            for name, tensor in build_sam2(config(version, size), None, device="cpu").state_dict().items()
        }
        for version in seeded.VERSIONS
        for size in seeded.SIZES
    }
    trunk = "image_encoder."
    every = {name: shape for name, shape in whole["sam2", "tiny"].items() if not name.startswith(trunk)}
    parts: dict[str, dict[str, list[int]]] = {"every file": every}
    parts["sam2.1"] = {
        name: shape for name, shape in whole["sam2.1", "tiny"].items() if name not in whole["sam2", "tiny"]
    }
    for size in seeded.SIZES:
        parts[size] = {name: shape for name, shape in whole["sam2", size].items() if name.startswith(trunk)}
    for (version, size), names in whole.items():
        own = parts["sam2.1"] if version == "sam2.1" else {}
        assert names == {**every, **parts[size], **own}, (version, size)
    sections = []
    for part, names in parts.items():
        lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(shape)}" for name, shape in names.items())
        sections.append(f"{json.dumps(part)}: {{\n{lines}\n}}")
    (HERE / "layouts.json").write_text("{\n" + ",\n".join(sections) + "\n}\n", encoding="utf-8")


def statistics(array: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, least, greatest and share above 0, over the last two axes."""
    axes = (-2, -1)
    wide = array.astype(np.float64)
    share = (array > 0).mean(axis=axes)
    return np.stack([wide.mean(axes), wide.std(axes), wide.min(axes), wide.max(axes), share], axis=-1)


def run(version: str, size: str, folder: Path) -> dict[str, np.ndarray]:
    started = time.perf_counter()
    seed = seeded.seed(version, size)
    weights = seeded.state(seeded.layout(version, size), seed)
    file = folder / "seeded.pt"
    torch.save({"model": {name: torch.from_numpy(value) for name, value in weights.items()}}, file)
    fingerprint = seeded.fingerprint(weights)
    del weights
    model = build_sam2(config(version, size), str(file), device="cpu")  # names must match, or it raises
    file.unlink()
    presence: list[torch.Tensor] = []
    model.sam_mask_decoder.register_forward_hook(lambda module, args, output: presence.append(output[3]))

    predictor = SAM2ImagePredictor(model)
    own_transforms = predictor._transforms
    predictor._transforms = AsItIs(torch.from_numpy(seeded.pixels(seed)))
    predictor.set_image(np.zeros((seeded.PICTURE, seeded.PICTURE, 3), np.uint8))
    single_full, single_scores, single = predictor.predict(
        box=seeded.BOXES, multimask_output=False, return_logits=True
    )
    _, several_scores, several = predictor.predict(box=seeded.BOXES, multimask_output=True)
    _, prompted_scores, prompted = predictor.predict(
        point_coords=seeded.POINTS,
        point_labels=seeded.POINT_LABELS,
        mask_input=seeded.mask_prompt(seed),
        multimask_output=True,
    )
    model.sam_mask_decoder.dynamic_multimask_via_stability = False
    first = predictor.predict(box=seeded.BOXES, multimask_output=False)[2][:, 0]
    model.sam_mask_decoder.dynamic_multimask_via_stability = True
    stability = (first > 0.05).sum((-2, -1)) / (first > -0.05).sum((-2, -1))
    assert np.abs(stability - 0.98).min() > 1e-4, (
        "rounding could turn the choice among the masks: take another seed"
    )
    alike = np.corrcoef(first.reshape(len(first), -1))[np.triu_indices(len(first), 1)]
    embedding = predictor._features["image_embed"][0].numpy()
    fine, middle = (feature[0].numpy() for feature in predictor._features["high_res_feats"])
    values = {
        "fingerprint": np.array(fingerprint),
        "single": single[..., 7::16, 7::16],
        "single_statistics": statistics(single),
        "single_scores": single_scores,
        "several": several[..., 7::32, 7::32],
        "several_statistics": statistics(several),
        "several_scores": several_scores,
        "prompted": prompted[..., 7::32, 7::32],
        "prompted_scores": prompted_scores,
        "presence": presence[0].numpy(),
        "image_embeddings": embedding[::16, 3::8, 3::8],
        "image_embeddings_statistics": statistics(embedding)[::16],
        "high_res_features_0": fine[::4, 15::32, 15::32],
        "high_res_features_0_statistics": statistics(fine)[::4],
        "high_res_features_1": middle[::8, 7::16, 7::16],
        "high_res_features_1_statistics": statistics(middle)[::8],
    }
    print(
        f"{version} {size}: {time.perf_counter() - started:.0f} s; |logits| {np.abs(several).mean():.2f}, "
        f"greatest {np.abs(single_full).max():.1f}, stability {stability.round(4)}, "
        f"boxes' masks correlate {alike.round(2)}, "
        f"scores {single_scores.ravel().round(3)} {several_scores.round(3).tolist()}, "
        f"|embedding| {np.abs(embedding).mean():.2f}, presence {presence[0].ravel().numpy().round(2)}"
    )
    if (version, size) == ("sam2.1", "tiny"):
        # The whole way of a picture: Meta resizes floating point pixels, and masks from their logits.
        predictor._transforms = own_transforms
        predictor.set_image(seeded.photograph(seed, *PHOTOGRAPH))
        boxes = seeded.BOXES * np.float32(PHOTOGRAPH_SCALE)
        full, scores, low = predictor.predict(box=boxes, multimask_output=False, return_logits=True)
        values |= {
            "photograph_boxes": boxes,
            "photograph_size": np.array(PHOTOGRAPH),
            "photograph_pixels": own_transforms(seeded.photograph(seed, *PHOTOGRAPH)).numpy()[
                :, 7::32, 7::32
            ],
            "photograph_full": full[..., 7::24, 7::24],
            "photograph_masks": np.packbits(full[..., ::4, ::4] > 0),
            "photograph_single": low[..., 7::32, 7::32],
            "photograph_scores": scores,
        }
    return {
        name: value.astype(np.float32) if value.dtype == np.float64 else value
        for name, value in values.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", nargs=2, metavar=("VERSION", "SIZE"), help="make this one only")
    parser.add_argument("--layouts", action="store_true", help="write the names and shapes only")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.only is None:
        write_layouts()
    if arguments.layouts:
        return
    made_with = {
        "facebookresearch/sam2": COMMIT,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        for size in seeded.SIZES:
            for version in seeded.VERSIONS:
                if arguments.only is None or tuple(arguments.only) == (version, size):
                    values = run(version, size, Path(folder))
                    file = seeded.oracle(version, size)
                    np.savez_compressed(file, made_with=np.array(json.dumps(made_with)), **values)
                    print(f"{file.name}: {file.stat().st_size / 1000:.0f} kB", flush=True)
                    gc.collect()


if __name__ == "__main__":
    main()
