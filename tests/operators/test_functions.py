"""The dynamic functions that are written into models compute what the reference computes."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from runtime import options

from intact.core import arithmetic
from intact.emit.functions import DOMAIN, function

RNG = np.random.default_rng(3)


def real(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape, np.float32)


def whole(*shape: int) -> NDArray[np.int8]:
    return RNG.integers(-127, 128, shape).astype(np.int8)


def scales(*shape: int) -> NDArray[np.float32]:
    return RNG.uniform(0.001, 0.01, shape).astype(np.float32)


def call(
    name: str,
    operands: dict[str, NDArray[Any]],
    outputs: int = 1,
    attributes: dict[str, Any] | None = None,
) -> list[NDArray[Any]]:
    """The function's outputs in ONNX Runtime; the first operand is the model's input."""
    values = {
        key: ir.Value(
            name=key,
            shape=ir.Shape(value.shape),
            type=ir.TensorType(ir.DataType.from_numpy(value.dtype)),
            const_value=ir.tensor(value, name=key),
        )
        for key, value in operands.items()
    }
    x, *constants = values.values()
    x.const_value = None
    node = ir.node(name, [x, *constants], attributes, domain=DOMAIN, num_outputs=outputs)
    for i, output in enumerate(node.outputs):
        output.name, output.type = f"y{i}", ir.TensorType(ir.DataType.FLOAT)
    opsets = {"": 21, DOMAIN: 1}
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=constants, opset_imports=opsets)
    functions = [function(name)]
    if name in ("DynamicLSTM", "DynamicGRU"):
        functions.append(function("DynamicMatMul"))
    model = ir.Model(graph, ir_version=10, functions=functions)
    content = ir.to_proto(model).SerializeToString()
    session = onnxruntime.InferenceSession(content, options(optimized=False))
    results: list[NDArray[Any]] = session.run(None, {"x": operands["x"]})
    return results


def sums(w_q: NDArray[np.int8], axes: tuple[int, ...]) -> NDArray[np.int32]:
    return w_q.astype(np.int32).sum(axis=axes, dtype=np.int32)


def test_dynamic_matmul() -> None:
    x, w, scale = real(2, 5, 30) * np.exp(real(2, 5, 1)), whole(30, 8), scales(8)
    theirs = call(
        "DynamicMatMul", {"x": x, "weight": w, "weight_scale": scale, "weight_sum": sums(w, (0,))}
    )[0]
    np.testing.assert_array_equal(arithmetic.dynamic_matmul(x, w, scale), theirs)


@pytest.mark.parametrize("group", [1, 2])
def test_dynamic_conv(group: int) -> None:
    x, w, scale = real(3, 4, 7, 6) * np.exp(real(3, 1, 1, 1)), whole(6, 4 // group, 3, 2), scales(6)
    theirs = call(
        "DynamicConv",
        {
            "x": x,
            "weight": w,
            "weight_scale": scale.reshape(-1, 1, 1),
            "weight_sum": sums(w, (1, 2, 3)).reshape(-1, 1, 1),
        },
        attributes={
            "axes": list(range(1, x.ndim)),
            "strides": [2, 1],
            "dilations": [1, 2],
            "group": group,
            "pads": [0, 0, 1, 0, 0, 0, 2, 1],
        },
    )[0]
    ours = arithmetic.dynamic_conv(
        x, w, scale, strides=[2, 1], dilations=[1, 2], group=group, pads=[1, 0, 2, 1]
    )
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("group", [1, 2])
def test_dynamic_conv_transpose(group: int) -> None:
    x, w = real(3, 4, 7, 6) * np.exp(real(3, 1, 1, 1)), whole(4, 6 // group, 3, 2)
    scale = scales(6 // group)
    geometry: dict[str, Any] = {
        "strides": [2, 3],
        "dilations": [1, 2],
        "group": group,
        "pads": [1, 0, 1, 1],
        "output_padding": [1, 0],
    }
    tiled = np.tile(scale, group).reshape(-1, 1, 1)
    operands = {"x": x, "weight": w, "weight_scale": tiled}
    theirs = call("DynamicConvTranspose", operands, attributes={"axes": [1, 2, 3], **geometry})[0]
    np.testing.assert_array_equal(
        arithmetic.dynamic_conv_transpose(x, w, scale, **geometry), theirs
    )


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize(("name", "gates"), [("DynamicLSTM", 4), ("DynamicGRU", 3)])
def test_recurrent(name: str, gates: int, direction: Any) -> None:
    rows, hidden, x = gates * 5, 5, real(9, 2, 6)
    w, r, w_scale, r_scale = whole(rows, 6), whole(rows, hidden), scales(rows), scales(rows)
    bias, h0, c0 = real(2 * rows), np.tanh(real(2, hidden)), real(2, hidden)
    weights = (w[None], w_scale[None], r[None], r_scale[None], bias[None])
    operands = {
        "x": x,
        "weight": w.T,
        "weight_scale": w_scale,
        "weight_sum": sums(w, (1,)),
        "recurrence": r.T,
        "recurrence_scale": r_scale,
        "recurrence_sum": sums(r, (1,)),
    }
    ours: tuple[NDArray[np.float32], ...]
    if name == "DynamicLSTM":
        operands |= {"bias": bias[:rows] + bias[rows:], "h0": h0, "c0": c0}
        ours = arithmetic.lstm(x, *weights, h0[None], c0[None], direction)
    else:
        operands |= {"bias": bias[:rows], "recurrence_bias": bias[rows:], "h0": h0}
        ours = arithmetic.gru(x, *weights, h0[None], direction, linear_before_reset=True)
    attributes = {"directions": [int(direction == "reverse")]}
    theirs = call(name, operands, outputs=len(ours), attributes=attributes)
    for mine, other in zip(ours, theirs, strict=True):
        squeezed = mine[:, 0] if mine.ndim == 4 else mine[0]
        # Sigmoid and tanh are not bit for bit the same everywhere.
        np.testing.assert_allclose(squeezed, other, atol=1e-5)
