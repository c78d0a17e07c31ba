"""Small quantized graphs for the engine, and operands for them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from intact.core.native import native
from intact.core.qparams import Dtype, QParams, dequantize
from intact.emit.functions import function
from intact.engine.compile import Model
from tests.operators import runtime
from tests.operators.runtime import output, qparams

__all__ = [
    "ISAS", "Graph", "activation", "assert_same", "bias", "dynamic_call", "each_isa",
    "needs_native", "output", "qparams", "quick", "weight",
]  # fmt: skip

needs_native = pytest.mark.skipif(native is None, reason="the native part is not built")
# The same examples every time, for every instruction set that this CPU has.
quick = settings(max_examples=25, deadline=None, derandomize=True)
ISAS: list[str] = [] if native is None else native.instruction_sets()
each_isa = pytest.mark.parametrize("isa", ISAS)

Array = NDArray[Any]


@dataclass
class Graph:
    """An ONNX graph in the making; names are given by the caller."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    inputs: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    domains: set[str] = field(default_factory=set)

    def input(self, name: str, value: Array) -> str:
        self.inputs[name] = value
        return name

    def constant(self, name: str, value: Any) -> str:
        self.constants[name] = np.asarray(value)
        return name

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        return self.many(op_type, inputs, [output], **attributes)[0]

    def many(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> list[str]:
        """A node with several outputs."""
        domain = attributes.pop("domain", "")
        self.domains.add(domain)
        self.nodes.append(
            helper.make_node(op_type, inputs, outputs, outputs[0], domain=domain, **attributes)
        )
        return list(outputs)

    def parameters(self, name: str, q: QParams) -> list[str]:
        point = q.zero_point.astype(q.dtype)
        return [self.constant(f"{name}_s", q.scale), self.constant(f"{name}_z", point)]

    def quantized(self, name: str, q: QParams) -> str:
        """`name` through QuantizeLinear and DequantizeLinear."""
        parameters = self.parameters(name, q)
        self.node("QuantizeLinear", [name, *parameters], f"{name}_q")
        return self.node("DequantizeLinear", [f"{name}_q", *parameters], f"{name}_dq")

    def activation(self, name: str, q: Array, qparams: QParams) -> str:
        """An input whose integers are `q`."""
        self.input(name, dequantize(q, qparams))
        return self.quantized(name, qparams)

    def weight(self, name: str, q: Array, qparams: QParams) -> str:
        """Stored integers, dequantized."""
        axis = {} if qparams.axis is None else {"axis": qparams.axis}
        inputs = [self.constant(f"{name}_q", q), *self.parameters(name, qparams)]
        return self.node("DequantizeLinear", inputs, f"{name}_dq", **axis)

    def proto(self, outputs: Sequence[str]) -> onnx.ModelProto:
        infos = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in self.inputs.items()
        ]
        results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        constants = [numpy_helper.from_array(v, k) for k, v in self.constants.items()]
        graph = helper.make_graph(self.nodes, "g", infos, results, constants)
        opsets = [helper.make_opsetid("", 21)]
        if "intact" in self.domains:
            opsets.append(helper.make_opsetid("intact", 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)

    def run(self, outputs: Sequence[str], isa: str = "", threads: int = 2) -> list[Array]:
        """The outputs, from the engine."""
        model = Model(self.proto(outputs), threads, _no_session, isa)
        return model.run(self.inputs)


def _no_session(content: bytes) -> Any:
    raise AssertionError("this graph needs no other runtime")


def activation(
    rng: np.random.Generator, shape: Sequence[int], dtype: Dtype = "uint8"
) -> tuple[Array, QParams]:
    """Random integers, and what they mean."""
    return runtime.activation(rng, shape, dtype)[:2]


def weight(
    rng: np.random.Generator, shape: Sequence[int], axis: int | None, dtype: Dtype = "int8"
) -> tuple[Array, QParams]:
    """Random weights, and what they mean."""
    return runtime.weight(rng, shape, axis, dtype)[:2]


def bias(rng: np.random.Generator, x: QParams, w: QParams, size: int) -> tuple[Array, QParams]:
    """An int32 bias at the scale of the products."""
    nothing = np.zeros(0)
    operands = (runtime.Quantized(nothing, x), runtime.Quantized(nothing, w))
    return runtime.bias(rng, *operands, size)[:2]


def dynamic_call(
    graph: Graph,
    op_type: str,
    x: str,
    w: Array,
    scale: Array,
    output: str = "product",
    **attributes: Any,
) -> str:
    """A call of one of intact's functions, as `emit` writes it."""
    assert function(op_type).name == op_type
    kernel_axes = tuple(range(1, w.ndim)) if op_type == "DynamicConv" else (0,)
    shape = (-1, *[1] * (w.ndim - 2)) if op_type == "DynamicConv" else (-1,)
    names = [
        x,
        graph.constant(f"{output}_w", w),
        graph.constant(f"{output}_w_scale", scale.reshape(shape)),
        graph.constant(f"{output}_w_sum", w.sum(axis=kernel_axes, dtype=np.int32).reshape(shape)),
    ]
    return graph.node(op_type, names, output, domain="intact", **attributes)


def assert_same(found: Array, expected: Array) -> None:
    """Bit for bit, but for the sign of zero."""
    np.testing.assert_array_equal(found, expected, strict=True)
