"""intact: int8 models that keep their accuracy, from PyTorch and ONNX, for any ONNX runtime."""

__version__ = "0.1.0"
