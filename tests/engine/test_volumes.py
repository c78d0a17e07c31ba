"""Convolutions and pools in three dimensions are those of the integer reference, bit for bit."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intact.core import arithmetic
from intact.core.qparams import dequantize
from tests.engine.build import (
    Graph,
    activation,
    assert_same,
    bias,
    dynamic_call,
    each_isa,
    needs_native,
    output,
    qparams,
    quick,
    weight,
)

pytestmark = needs_native


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    def each(low: int, high: int, count: int = 3) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    return {
        "spatial": each(5, 6), "kernel": each(1, 3), "strides": each(1, 2),
        "dilations": each(1, 2), "pads": each(0, 2, 6), "group": draw(st.sampled_from([1, 2, 3])),
        "inputs": draw(st.sampled_from([1, 4])), "outputs": draw(st.sampled_from([1, 5, 33])),
    }  # fmt: skip


ATTRIBUTES = ("strides", "dilations", "pads", "group")


@each_isa
@quick
@given(st.integers(0, 2**32 - 1), geometries())
def test_conv(isa: str, seed: int, g: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    out = g["group"] * g["outputs"]
    x_q, x = activation(rng, (2, g["group"] * g["inputs"], *g["spatial"]))
    w_q, w = weight(rng, (out, g["inputs"], *g["kernel"]), 0)
    b_q, b = bias(rng, x, w, out)
    attributes = {name: g[name] for name in ATTRIBUTES}
    real = arithmetic.conv(x_q, x, w_q, w, b_q, None, **attributes)
    y = output(real)
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("Conv", operands, "c", **attributes)
    result = graph.quantized("c", y)
    expected = dequantize(arithmetic.conv(x_q, x, w_q, w, b_q, y, **attributes), y)
    assert_same(graph.run([result], isa)[0], expected)
    assert_same(graph.run(["c"], isa)[0], real)


@each_isa
@quick
@given(st.integers(0, 2**32 - 1), geometries())
def test_dynamic_conv(isa: str, seed: int, g: dict[str, Any]) -> None:
    rng = np.random.default_rng(seed)
    out, pads = g["group"] * g["outputs"], g["pads"]
    x = rng.standard_normal((2, g["group"] * g["inputs"], *g["spatial"]), np.float32)
    x[1] *= 7
    w_q = weight(rng, (out, g["inputs"], *g["kernel"]), 0)[0]
    scale = rng.uniform(1e-3, 1, out).astype(np.float32)
    shift = rng.standard_normal(out, np.float32)
    attributes = {name: g[name] for name in ATTRIBUTES}
    graph = Graph()
    around = {"pads": [0, 0, *pads[:3], 0, 0, *pads[3:]]}
    dynamic_call(
        graph, "DynamicConv", graph.input("x", x), w_q, scale, axes=[1, 2, 3, 4],
        **(attributes | around),
    )  # fmt: skip
    graph.node("Add", ["product", graph.constant("b", shift.reshape(-1, 1, 1, 1))], "y")
    expected = arithmetic.dynamic_conv(x, w_q, scale, shift, **attributes)
    assert_same(graph.run(["y"], isa)[0], expected)


@each_isa
@pytest.mark.parametrize("real", [False, True])
@pytest.mark.parametrize("op_type", ["MaxPool", "GlobalMaxPool", "GlobalAveragePool"])
def test_pools(isa: str, op_type: str, real: bool) -> None:
    x_q, x = activation(np.random.default_rng(0), (2, 19, 5, 6, 7))
    y = qparams(0.07, 10)
    kernel, strides, pads = [2, 3, 3], [2, 1, 2], [1, 0, 1, 0, 1, 1]
    graph = Graph()
    attributes: dict[str, Any] = {}
    if op_type == "MaxPool":
        attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads}
        q = arithmetic.max_pool(x_q, x, y, kernel=kernel, strides=strides, pads=pads)
        exact = arithmetic.max_pool(x_q, x, x, kernel=kernel, strides=strides, pads=pads)
    elif op_type == "GlobalMaxPool":
        q, exact = arithmetic.global_max_pool(x_q, x, y), arithmetic.global_max_pool(x_q, x, x)
    else:
        q, exact = arithmetic.global_average_pool(x_q, x, y), None
    name = graph.input("x", dequantize(x_q, x)) if real else graph.activation("x", x_q, x)
    graph.node(op_type, [name], "p", **attributes)
    if not real:
        assert_same(graph.run([graph.quantized("p", y)], isa)[0], dequantize(q, y))
    expected = arithmetic.global_average_pool(x_q, x) if exact is None else dequantize(exact, x)
    np.testing.assert_allclose(graph.run(["p"], isa)[0], expected, rtol=1e-6, atol=1e-6)
