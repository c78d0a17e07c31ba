"""Layer normalization, recognized by what it computes."""

from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.graph.passes.cones import Cone, cones, evaluate, scalar

__all__ = ["RecognizeLayerNorm"]

_INNER: Final = frozenset(
    {"Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Neg", "Reciprocal", "ReduceMean", "Identity"}
)
_TOLERANCE: Final = 1e-4


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
    if shape is None or not isinstance(shape[-1], int) or cone.source.dtype != ir.DataType.FLOAT:
        return False
    means = [node for node in cone.nodes if node.op_type == "ReduceMean"]
    return len(means) == 2 and all(_over_last(node, len(shape)) for node in means)


def _over_last(node: ir.Node, rank: int) -> bool:
    axes = node.inputs[1].const_value if len(node.inputs) > 1 and node.inputs[1] else None
    keep = node.attributes.get("keepdims")
    if axes is None or (keep is not None and keep.as_int() == 0):
        return False
    return [int(a) % rank for a in axes.numpy().reshape(-1)] == [rank - 1]


def _parameters(
    cone: Cone, opset: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], float] | None:
    """Scale, bias and epsilon, if the cone is a layer normalization."""
    shape = cone.source.shape
    assert shape is not None
    width = int(shape[-1])  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    # Small values bring out epsilon, large ones the rest.
    x = rng.normal(size=(8, *[1] * (len(shape) - 2), width)).astype(np.float32)
    x *= np.geomspace(1e-3, 10, 8, dtype=np.float32).reshape(-1, *[1] * (len(shape) - 1))
    x = x.reshape(8, width) if len(shape) == 2 else x
    y = evaluate(cone, x, opset)
    if y is None or y.shape != x.shape:
        return None
    x2, y2 = (a.reshape(8, width).astype(np.float64) for a in (x, y))
    constants = {scalar(v) for node in cone.nodes for v in node.inputs}
    for epsilon in sorted(c for c in constants if c is not None and 0 < c < 0.1):
        normal = (x2 - x2.mean(1, keepdims=True)) / np.sqrt(x2.var(1, keepdims=True) + epsilon)
        # Two rows determine scale and bias of each column; the others must agree.
        scale = (y2[-1] - y2[-2]) / (normal[-1] - normal[-2])
        bias = y2[-1] - scale * normal[-1]
        if np.allclose(y2, normal * scale + bias, rtol=_TOLERANCE, atol=_TOLERANCE):
            exact = _exact(cone, scale), _exact(cone, bias)
            return exact[0], exact[1], epsilon
    return None


def _exact(cone: Cone, estimate: NDArray[np.float64]) -> NDArray[np.float32]:
    """The constant of the cone that the estimate is an estimate of, or the estimate."""
    for node in cone.nodes:
        for value in node.inputs:
            if value is not None and value.const_value is not None:
                array = value.const_value.numpy()
                if array.size == estimate.size and np.allclose(
                    array.reshape(-1), estimate, rtol=1e-3, atol=1e-3
                ):
                    return array.reshape(-1).astype(np.float32)
    for plain in (0.0, 1.0):
        if np.allclose(estimate, plain, atol=1e-3):
            return np.full(estimate.shape, plain, np.float32)
    return estimate.astype(np.float32)


def _replace(
    graph: ir.Graph,
    cone: Cone,
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
    epsilon: float,
) -> None:
    sink = cone.sink
    output = sink.outputs[0]
    constants = []
    for part, array in (("scale", scale), ("bias", bias)):
        tensor = ir.tensor(array, name=f"{output.name}_norm_{part}")
        value = ir.Value(
            name=tensor.name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )  # fmt: skip
        graph.register_initializer(value)
        constants.append(value)
    new = ir.node(
        "LayerNormalization", [cone.source, *constants],
        attributes={"axis": -1, "epsilon": epsilon}, name=sink.name,
    )  # fmt: skip
    new.metadata_props.update(sink.metadata_props)
    new.outputs[0].name = output.name
    new.outputs[0].type, new.outputs[0].shape = output.type, output.shape
    ir.convenience.replace_nodes_and_values(
        graph, sink, list(cone.nodes), [new], [output], [new.outputs[0]]
    )
