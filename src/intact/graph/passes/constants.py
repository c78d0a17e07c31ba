"""Constants of a graph: reading, replacing and adding them."""

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["add_constant", "array_of", "replace_constant", "scalar"]


def array_of(value: ir.Value | None) -> NDArray[Any] | None:
    """The array that a constant holds, else None."""
    return None if value is None or value.const_value is None else value.const_value.numpy()


def scalar(value: ir.Value | None) -> float | None:
    """The number that a constant of one element holds, else None."""
    if value is None or value.const_value is None or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(()))


def add_constant(graph: ir.Graph, name: str, array: NDArray[np.generic]) -> ir.Value:
    """A new initializer of the graph, named `name` or, if that is taken, with a number behind."""
    unique, i = name, 1
    while unique in graph.initializers:
        i += 1
        unique = f"{name}_{i}"
    tensor = ir.tensor(array, name=unique)
    value = ir.Value(
        name=unique,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def replace_constant(graph: ir.Graph, old: ir.Value, array: NDArray[np.generic]) -> ir.Value:
    """The constant `array` for the one user of `old`; its own copy where `old` has other users."""
    return add_constant(graph, str(old.name), array) if len(old.uses()) > 1 else _set(old, array)


def _set(value: ir.Value, array: NDArray[np.generic]) -> ir.Value:
    value.const_value = ir.tensor(array, name=value.name)
    value.shape = ir.Shape(array.shape)
    return value
