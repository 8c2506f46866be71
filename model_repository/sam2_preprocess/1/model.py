"""Encoded picture and boxes → the SAM2 encoder's input and the boxes in its frame."""

import numpy as np

from florence2_sam2.server import manifest
from florence2_sam2.server.inputs.pictures import decode_picture
from florence2_sam2.server.preprocess import to_model_frame, to_pixels
from florence2_sam2.server.sam2_steps import check_boxes
from florence2_sam2.server.settings import Settings
from florence2_sam2.server.triton import tensors
from florence2_sam2.server.triton.sync_model import SyncModel


class TritonPythonModel(SyncModel):
    def start(self):
        self.settings = Settings.from_environment()
        self.spec = manifest.read_sam2(self.repository).image

    def answer(self, request):
        image = tensors.required(tensors.bytes_input(request, "image"), "image")
        boxes = tensors.required(tensors.array_input(request, "boxes", np.float32, [None, 4]), "boxes")
        check_boxes(boxes, self.settings.max_boxes)
        picture = decode_picture(image, self.settings, "image")
        height, width = picture.shape[:2]
        return [
            tensors.array_output("pixels", to_pixels(picture, self.spec)),
            tensors.array_output("model_boxes", to_model_frame(boxes, width, height, self.spec)),
            tensors.array_output("image_size", np.array([width, height], np.int32)),
        ]
