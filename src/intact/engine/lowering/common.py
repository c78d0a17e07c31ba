"""What lowerings share."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from intact.engine.program import Quantization, Unsupported
from intact.engine.state import State
from intact.engine.values import Constant, Value

__all__ = ["Lowering", "attribute", "describe", "known", "quantization", "table_of"]

Lowering = Callable[[ir.Node, list[Value | None], State], Value | list[Value]]


def table_of(names: Sequence[str], lowering: Lowering) -> dict[tuple[str, str], Lowering]:
    """One lowering for several of ONNX's operators."""
    return {("", name): lowering for name in names}


def known(value: Value | None, node: ir.Node) -> Constant:
    """The value as a constant, which it must be."""
    if not isinstance(value, Constant):
        raise Unsupported(f"operator '{node.name}' ({node.op_type}) reads what is not constant")
    return value


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """An attribute's value, or the default."""
    found = node.attributes.get(name)
    return default if found is None else found.value


def describe(value: Value | None) -> str:
    """A value in an error message."""
    if value is None:
        return "nothing"
    return f"{type(value).__name__.lower()} [{', '.join(map(str, value.shape))}]"


def quantization(node: ir.Node, scale: Value | None, point: Value | None) -> Quantization:
    """Of an activation: one scale and zero point."""
    scales = known(scale, node).array
    points = np.zeros((), np.uint8) if point is None else known(point, node).array
    if scales.size != 1 or points.size != 1 or attribute(node, "block_size", 0):
        raise Unsupported(f"operator '{node.name}' has more than one scale")
    if points.dtype not in (np.uint8, np.int8):
        raise Unsupported(f"operator '{node.name}' has a zero point of {points.dtype}")
    if scales.dtype != np.float32 or not (np.isfinite(scales).all() and (scales > 0).all()):
        raise Unsupported(f"operator '{node.name}' has a scale that is not a positive float32")
    raised = 128 if points.dtype == np.int8 else 0
    return Quantization(np.float32(scales.reshape(())), int(points.reshape(())) + raised)
