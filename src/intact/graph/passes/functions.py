"""Element-wise functions, recognized by what they compute."""

import math
from collections.abc import Callable
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.graph.passes.cones import Cone, cones, evaluate

__all__ = ["RecognizeFunctions"]

_INNER: Final = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Pow", "Sqrt", "Erf", "Tanh", "Sigmoid", "Exp", "Neg", "Clip",
        "Relu", "Min", "Max", "HardSigmoid", "Reciprocal", "Log", "Softplus",
    }
)  # fmt: skip
_SINKS: Final = frozenset({"Mul", "Div", "Clip", "Reciprocal", "Min", "Max"})
# Dense where the functions are curved; sparse up to where float32 ends, since a function may be cut
# off anywhere.
_NEAR: Final = np.concatenate([np.linspace(-12, 12, 481), np.linspace(-1, 1, 201)])
_FAR: Final = np.geomspace(12, 1e30, 200)
_GRID: Final = np.concatenate([-_FAR, _NEAR, _FAR])
_TOLERANCE: Final = 2e-5  # constants are often written with few digits (1.4142, 0.7979)

_Array = NDArray[np.float64]
_Attributes = dict[str, str | float]


def _sigmoid(x: _Array) -> _Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu(x: _Array) -> _Array:
    erf = [math.erf(v / math.sqrt(2)) for v in x]
    return np.asarray(0.5 * x * (1 + np.array(erf)))


def _gelu_tanh(x: _Array) -> _Array:
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    return np.asarray(x * (0.5 + 0.5 * np.tanh(inner)))


def _hard_sigmoid(x: _Array, alpha: float = 1 / 6, beta: float = 0.5) -> _Array:
    return np.asarray(np.clip(alpha * x + beta, 0, 1))


def _mish(x: _Array) -> _Array:
    return x * np.tanh(np.logaddexp(0, x))


_FUNCTIONS: Final[tuple[tuple[str, _Attributes, Callable[[_Array], _Array]], ...]] = (
    ("Gelu", {}, _gelu),
    ("Gelu", {"approximate": "tanh"}, _gelu_tanh),
    ("HardSwish", {}, lambda x: x * _hard_sigmoid(x)),
    ("Mish", {}, _mish),
    ("SiLU", {}, lambda x: x * _sigmoid(x)),
    ("Sigmoid", {}, _sigmoid),
)
with np.errstate(over="ignore"):
    _VALUES: Final = tuple((name, a, f(_GRID)) for name, a, f in _FUNCTIONS)


class RecognizeFunctions(ir.passes.InPlacePass):
    """Replaces spelled-out element-wise functions by their operator.

    1. A cone of two or more element-wise nodes with scalar constants that computes GELU (erf or
       tanh form), HardSwish, HardSigmoid (any alpha and beta), Mish or Sigmoid becomes that one
       operator.
    2. One that computes SiLU becomes `x * Sigmoid(x)`, since ONNX has no operator for it before
       opset 24.
    3. Longer cones go first; a cone whose inner values are used elsewhere stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rules to the whole graph."""
        modified = False
        opset = model.opset_imports.get("", 21)
        for sink in reversed(list(model.graph)):
            if sink.graph is None or sink.op_type not in _SINKS:
                continue
            for cone in reversed([c for c in cones(sink, _INNER) if len(c.nodes) > 1]):
                found = _recognize(cone, opset)
                if found is not None:
                    if not _is_canonical(cone, found[0]):
                        _replace(model.graph, cone, *found)
                        modified = True
                    break
        return ir.passes.PassResult(model, modified)


def _recognize(cone: Cone, opset: int) -> tuple[str, _Attributes] | None:
    """The function that the cone computes and its attributes, None if it is none of those known."""
    if cone.source.dtype != ir.DataType.FLOAT:
        return None
    # Of the source's rank, since constants of a higher rank would give the output theirs.
    shape = (*[1] * (len(cone.source.shape or (0,)) - 1), len(_GRID))
    y = evaluate(cone, _GRID.reshape(shape), opset)
    if y is None or y.shape != shape:
        return None
    y = y.reshape(-1)
    for name, attributes, expected in _VALUES:
        if _agrees(y, expected):
            return name, attributes
    return _hard_sigmoid_of(y)


def _agrees(y: _Array, expected: _Array) -> bool:
    """Whether the values are the function's; far out a spelling may overflow where it does not."""
    exempt = ~np.isfinite(y) & (np.abs(_GRID) > 12)
    return bool(np.allclose(y[~exempt], expected[~exempt], rtol=_TOLERANCE, atol=_TOLERANCE))


def _hard_sigmoid_of(y: _Array) -> tuple[str, _Attributes] | None:
    """HardSigmoid with the alpha and beta that these values on the grid have."""
    sloped = (y > 0) & (y < 1) & (np.abs(_GRID) <= 12)
    if sloped.sum() < 3 or y.min() != 0 or y.max() != 1:
        return None
    alpha, beta = np.polyfit(_GRID[sloped], y[sloped], 1)
    if alpha <= 0 or not _agrees(y, _hard_sigmoid(_GRID, alpha, beta)):
        return None
    return "HardSigmoid", {"alpha": float(alpha), "beta": float(beta)}


def _is_canonical(cone: Cone, name: str) -> bool:
    return name == "SiLU" and sorted(node.op_type for node in cone.nodes) == ["Mul", "Sigmoid"]


def _replace(graph: ir.Graph, cone: Cone, name: str, attributes: _Attributes) -> None:
    sink, x = cone.sink, cone.source
    output = sink.outputs[0]
    if name == "SiLU":
        gate = ir.node("Sigmoid", [x], name=f"{sink.name}.gate")
        gate.outputs[0].name = f"{output.name}_gate"
        gate.outputs[0].type, gate.outputs[0].shape = x.type, x.shape
        new = [gate, ir.node("Mul", [x, gate.outputs[0]], name=sink.name)]
    else:
        new = [ir.node(name, [x], attributes=attributes, name=sink.name)]
    for node in new:
        node.metadata_props.update(sink.metadata_props)
    ir.convenience.replace_nodes_and_values(
        graph, sink, list(cone.nodes), new, [output], [new[-1].outputs[0]]
    )
