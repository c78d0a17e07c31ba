"""Layer normalization, recognized by what it computes."""

from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.graph.passes.cones import Cone, cones, evaluate
from intact.graph.passes.constants import add_constant, array_of, scalar

__all__ = ["RecognizeLayerNorm"]

_INNER: Final = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Reciprocal", "ReduceMean", "Identity"}
)
_TOLERANCE: Final = 1e-6  # of a float64 evaluation; what remains is the rounding of constants
# From rows that consist of epsilon alone to rows in which it vanishes.
_ROWS: Final = np.geomspace(1e-7, 10, 12)


class RecognizeLayerNorm(ir.passes.InPlacePass):
    """Replaces spelled-out layer normalization over the last axis by LayerNormalization.

    1. A cone with two ReduceMean over the last axis that computes
       `(x - mean) / sqrt(variance + epsilon) * scale + bias` becomes one LayerNormalization;
       scale and bias are read off its values, epsilon is one of its constants.
    2. The longest cone is taken, so that scale and bias go along where they are part of it.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rules to the whole graph."""
        modified = False
        opset = model.opset_imports.get("", 21)
        for sink in reversed(list(model.graph)):
            if sink.graph is None or sink.op_type not in ("Add", "Sub", "Mul", "Div"):
                continue
            for cone in reversed([c for c in cones(sink, _INNER, vectors=True) if _may_be(c)]):
                found = _parameters(cone, opset)
                if found is not None:
                    _replace(model.graph, cone, *found)
                    modified = True
                    break
        return ir.passes.PassResult(model, modified)


def _may_be(cone: Cone) -> bool:
    """Whether the cone takes two means over the last axis of a value whose width is known."""
    shape = cone.source.shape
    if not shape or not isinstance(shape[-1], int) or cone.source.dtype != ir.DataType.FLOAT:
        return False
    means = [node for node in cone.nodes if node.op_type == "ReduceMean"]
    return len(means) == 2 and all(_over_last(node, len(shape)) for node in means)


def _over_last(node: ir.Node, rank: int) -> bool:
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    keep = node.attributes.get("keepdims")
    if axes is None or (keep is not None and keep.as_int() == 0):
        return False
    return [int(a) % rank for a in axes.reshape(-1)] == [rank - 1]


def _parameters(
    cone: Cone, opset: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float] | None:
    """Scale, bias and epsilon, if the cone is a layer normalization."""
    shape = cone.source.shape
    assert shape is not None
    width = shape[-1]
    assert isinstance(width, int)
    x = np.random.default_rng(0).normal(size=(len(_ROWS), width)) * _ROWS[:, None]
    rows = (len(_ROWS), *[1] * (len(shape) - 2)) if len(shape) > 1 else ()
    y = evaluate(cone, x.reshape(*rows, width), opset) if rows else None
    if y is None or y.shape != (*rows, width):
        return None
    y = y.reshape(x.shape)
    constants = {scalar(v) for node in cone.nodes for v in node.inputs}
    for epsilon in (*sorted(c for c in constants if c is not None and 0 < c < 0.1), 0.0):
        normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + epsilon)
        scale, bias = _fit(normal, y)
        if np.allclose(y, normal * scale + bias, rtol=_TOLERANCE, atol=_TOLERANCE):
            return scale.astype(np.float32), bias.astype(np.float32), epsilon
    return None


def _fit(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope and offset of each column of `y` as a function of that of `x`, by least squares."""
    centered = x - x.mean(0)
    # A width of 1 normalizes to nothing but zeros, of which any slope is right.
    slope = (centered * y).sum(0) / np.maximum(np.square(centered).sum(0), 1e-30)
    offset = y.mean(0) - slope * x.mean(0)
    noise = 1e-12 * np.abs(y).max()
    return slope, np.where(np.abs(offset) < noise, 0, offset)


def _replace(
    graph: ir.Graph,
    cone: Cone,
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
    epsilon: float,
) -> None:
    sink = cone.sink
    output = sink.outputs[0]
    constants = [
        add_constant(graph, f"{output.name}_norm_{part}", array)
        for part, array in (("scale", scale), ("bias", bias))
    ]
    new = ir.node(
        "LayerNormalization", [cone.source, *constants],
        attributes={"axis": -1, "epsilon": epsilon}, name=sink.name,
    )  # fmt: skip
    new.metadata_props.update(sink.metadata_props)
    ir.convenience.replace_nodes_and_values(
        graph, sink, list(cone.nodes), [new], [output], [new.outputs[0]]
    )
