"""Running quantized ONNX files."""
