"""`train_sam2 --hard`: the hardest of several scenes, its hard things first among those asked for twice."""

import numpy as np
import pytest
import torch

from florence2_sam2.training import train_sam2
from florence2_sam2.training.hard import hardness

pytestmark = pytest.mark.parity


def test_the_hardest_is_chosen_and_everything_is_asked_for() -> None:
    scene, order = train_sam2.hard_scene(np.random.default_rng(5), 128, 4)
    rng = np.random.default_rng(5)
    others = [train_sam2.scene_of(rng, 128) for _ in range(4)]
    sums = [hardness(other).sum() for other in others]
    assert hardness(scene).sum() == pytest.approx(max(sums))
    assert max(sums) > min(sums)
    count = len(scene.objects)
    assert sorted(order[:count]) == list(range(count))
    again = order[count:]
    hard = hardness(scene)
    assert list(hard[again]) == sorted(hard, reverse=True)[: len(again)]


def test_batches_of_hard_scenes_have_the_same_form() -> None:
    easy = train_sam2.scene_batch(np.random.default_rng(1), 2, 64)
    hard = train_sam2.scene_batch(np.random.default_rng(1), 2, 64, hard=3)
    assert [part.shape for part in easy] == [part.shape for part in hard]
    assert [part.dtype for part in easy] == [part.dtype for part in hard]


def test_a_poor_mask_counts_more() -> None:
    """The gradient of a missed box beside a good one, with and without focus."""

    def share(focus: bool) -> float:
        truth = torch.zeros(2, 1, 32, 32)
        truth[:, :, 8:24, 8:24] = 1
        logits = torch.stack([8 * (truth[0] - 0.5), 8 * (0.5 - truth[1])]).requires_grad_()
        iou = train_sam2.true_iou(logits, truth)
        assert iou[:, 0].tolist() == [1.0, 0.0]
        train_sam2.focused(train_sam2.mask_loss(logits, truth, 0), iou, focus).backward()
        sizes = logits.grad.abs().sum((1, 2, 3))
        return float(sizes[1] / sizes.sum())

    assert share(True) > share(False)
