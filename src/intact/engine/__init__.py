"""The compiler of intact's own engine: a quantized ONNX file becomes a program of operators."""
