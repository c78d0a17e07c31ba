"""How good, how fast and how large a quantized model is."""
