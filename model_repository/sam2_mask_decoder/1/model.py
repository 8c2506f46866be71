"""The embedded form: runs `model.onnx` beside this file. Production uses Triton's onnxruntime backend."""

from florence2_sam2.server.leaf import MaskDecoderModel as TritonPythonModel

__all__ = ["TritonPythonModel"]
