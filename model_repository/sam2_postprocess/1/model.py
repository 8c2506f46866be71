"""SAM2's mask logits → masks of the picture's size."""

import numpy as np

from florence2_sam2.server.sam2_steps import full_size_masks
from florence2_sam2.server.triton import tensors
from florence2_sam2.server.triton.sync_model import SyncModel


class TritonPythonModel(SyncModel):
    def answer(self, request):
        logits = tensors.array_input(request, "mask_logits", np.float32, [None, None, None])
        size = tensors.array_input(request, "image_size", np.int32, [2])
        width, height = tensors.required(size, "image_size").tolist()
        masks = full_size_masks(tensors.required(logits, "mask_logits"), width, height)
        return [tensors.array_output("masks", masks)]
