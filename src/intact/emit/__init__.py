"""Graph + Plan -> quantized ONNX."""

from intact.emit.emit import TARGETS, Target, emit

__all__ = ["TARGETS", "Target", "emit"]
