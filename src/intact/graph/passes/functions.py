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
# Nearly linear far out, curved within: the grid is dense where the functions differ.
_GRID: Final = np.concatenate([np.linspace(-12, 12, 481), np.linspace(-1, 1, 201)]).astype("f4")
_TOLERANCE: Final = 2e-5  # float32 spellings of GELU by tanh differ by as much


def _erf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([math.erf(value) for value in x])


def _gelu_tanh(x: NDArray[np.float64]) -> NDArray[np.float64]:
    curve: NDArray[np.float64] = (
        0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    )
    return curve


_FUNCTIONS: Final[dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]]] = {
    "Gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
    "Gelu/tanh": _gelu_tanh,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "HardSigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "Mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
}
_VALUES: Final = {name: f(_GRID.astype(np.float64)) for name, f in _FUNCTIONS.items()}


class RecognizeFunctions(ir.passes.InPlacePass):
    """Replaces spelled-out element-wise functions by their operator.

    1. A cone of two or more element-wise nodes with scalar constants that computes GELU (erf or
       tanh form), HardSwish, HardSigmoid (alpha 1/6, beta 1/2), Mish or Sigmoid becomes that one
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
            if sink.graph is None or sink.op_type not in ("Mul", "Div", "Clip", "Reciprocal"):
                continue
            found = [
                (cone, name)
                for cone in cones(sink, _INNER)
                if len(cone.nodes) > 1 and (name := _name(cone, opset)) is not None
            ]
            if found and not _is_canonical_silu(*found[-1]):
                _replace(*found[-1])
                modified = True
        return ir.passes.PassResult(model, modified)


def _name(cone: Cone, opset: int) -> str | None:
    """The function that the cone computes, None if it is none of those known."""
    if cone.source.dtype != ir.DataType.FLOAT:
        return None
    y = evaluate(cone, _GRID, opset)
    if y is None or y.shape != _GRID.shape:
        return None
    for name, expected in _VALUES.items():
        if np.allclose(y, expected, rtol=_TOLERANCE, atol=_TOLERANCE):
            return name
    return None


def _is_canonical_silu(cone: Cone, name: str) -> bool:
    return name == "SiLU" and {node.op_type for node in cone.nodes} == {"Mul", "Sigmoid"}


def _replace(cone: Cone, name: str) -> None:
    graph, sink, x = cone.sink.graph, cone.sink, cone.source
    assert graph is not None
    output = sink.outputs[0]
    if name == "SiLU":
        gate = ir.node("Sigmoid", [x], name=f"{sink.name}.gate")
        gate.outputs[0].name = f"{output.name}_gate"
        gate.outputs[0].type, gate.outputs[0].shape = x.type, x.shape
        new = [gate, ir.node("Mul", [x, gate.outputs[0]])]
    else:
        operator, _, form = name.partition("/")
        attributes: dict[str, str | float] = {}
        if form:
            attributes["approximate"] = form
        if name == "HardSigmoid":
            attributes |= {"alpha": 1 / 6, "beta": 0.5}
        new = [ir.node(operator, [x], attributes=attributes)]
    for node in new:
        node.metadata_props.update(sink.metadata_props)
    new[-1].name = sink.name
    new[-1].outputs[0].name = output.name
    new[-1].outputs[0].type, new[-1].outputs[0].shape = output.type, output.shape
    ir.convenience.replace_nodes_and_values(
        graph, sink, list(cone.nodes), new, [output], [new[-1].outputs[0]]
    )
