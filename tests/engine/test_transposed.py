"""Transposed convolutions are those of the integer reference, bit for bit."""

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
    quick,
    weight,
)

pytestmark = needs_native
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["uint8", "int8"])
threads = st.sampled_from([1, 3])


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes of a transposed convolution that has an output."""
    n = draw(st.integers(1, 2))

    def each(low: int, high: int, count: int = n) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    kernel, strides, dilations = each(1, 4), each(1, 3), each(1, 3)
    spatial, pads = each(1, 7), each(0, 3, 2 * n)
    extra = [draw(st.integers(0, max(s, d) - 1)) for s, d in zip(strides, dilations, strict=True)]
    for i in range(n):
        full = (spatial[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 + extra[i]
        spatial[i] += max(0, pads[i] + pads[n + i] + 1 - full)
    return {
        "spatial": spatial, "kernel": kernel, "strides": strides, "dilations": dilations,
        "pads": pads, "output_padding": extra, "group": draw(st.sampled_from([1, 1, 2, 3])),
        "inputs": draw(st.sampled_from([1, 3, 17])), "outputs": draw(st.sampled_from([1, 5, 34])),
    }  # fmt: skip


ATTRIBUTES = ("strides", "dilations", "pads", "output_padding", "group")


@each_isa
@quick
@given(seeds, geometries(), dtypes, dtypes, st.booleans(), threads)
def test_conv_transpose(
    isa: str,
    seed: int,
    g: dict[str, Any],
    x_dtype: Any,
    y_dtype: Any,
    per_channel: bool,
    count: int,
) -> None:
    rng = np.random.default_rng(seed)
    group = g["group"]
    x_q, x = activation(rng, (2, group * g["inputs"], *g["spatial"]), x_dtype)
    shape = (group * g["inputs"], g["outputs"], *g["kernel"])
    w_q, w = weight(rng, shape, 1 if per_channel else None)
    b_q, b = bias(rng, x, w, group * g["outputs"])
    attributes = {name: g[name] for name in ATTRIBUTES}
    real = arithmetic.conv_transpose(x_q, x, w_q, w, b_q, None, **attributes)
    y = output(real, y_dtype)
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("ConvTranspose", operands, "c", **attributes)
    result = graph.quantized("c", y)
    expected = dequantize(arithmetic.conv_transpose(x_q, x, w_q, w, b_q, y, **attributes), y)
    assert_same(graph.run([result], isa, count)[0], expected)
    assert_same(graph.run(["c"], isa, count)[0], real)


@each_isa
@quick
@given(seeds, geometries(), threads)
def test_dynamic_conv_transpose(isa: str, seed: int, g: dict[str, Any], count: int) -> None:
    rng = np.random.default_rng(seed)
    group, out = g["group"], g["group"] * g["outputs"]
    x = rng.standard_normal((3, group * g["inputs"], *g["spatial"]), np.float32)
    w_q = weight(rng, (group * g["inputs"], g["outputs"], *g["kernel"]), None)[0]
    scale = rng.uniform(1e-3, 1, g["outputs"]).astype(np.float32)
    shift = rng.standard_normal(out, np.float32)
    attributes = {name: g[name] for name in ATTRIBUTES}
    graph = Graph()
    dynamic_call(
        graph, "DynamicConvTranspose", graph.input("x", x), w_q, np.tile(scale, group),
        axes=list(range(1, x.ndim)), **attributes,
    )  # fmt: skip
    shaped = shift.reshape(-1, *[1] * len(g["spatial"]))
    graph.node("Add", ["product", graph.constant("b", shaped)], "s")
    graph.node("Relu", ["s"], "y")
    expected = arithmetic.dynamic_conv_transpose(x, w_q, scale, shift, **attributes)
    assert_same(graph.run(["y"], isa, count)[0], np.maximum(expected, 0))


@each_isa
def test_what_is_fused_computes_the_same(isa: str) -> None:
    """A clamp behind it, and a table."""
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (2, 6, 5, 4))
    w_q, w = weight(rng, (6, 7, 4, 4), 1)
    attributes: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
    y = output(np.maximum(arithmetic.conv_transpose(x_q, x, w_q, w, None, None, **attributes), 0))
    graph = Graph()
    operands = [graph.activation("x", x_q, x), graph.weight("w", w_q, w)]
    graph.node("ConvTranspose", operands, "c", **attributes)
    graph.node("Relu", ["c"], "r")
    result = graph.quantized("r", y)
    real = arithmetic.conv_transpose(x_q, x, w_q, w, None, y, **attributes)
    expected = np.maximum(real, y.zero_point)
    assert_same(graph.run([result], isa)[0], dequantize(expected, y))


@pytest.mark.parametrize(
    "attributes",
    [
        {"strides": [2, 3], "output_shape": [11, 14]},
        {"strides": [2, 3], "auto_pad": "SAME_UPPER"},
        {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
        {"strides": [2, 3], "auto_pad": "VALID"},
        {"strides": [1, 2], "output_shape": [7, 12], "auto_pad": "SAME_UPPER"},
    ],
    ids=str,
)
def test_padding_that_depends_on_the_size(attributes: dict[str, Any]) -> None:
    import onnxruntime

    from tests.operators.runtime import options

    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (2, 3, 5, 5))
    w_q, w = weight(rng, (3, 4, 4, 4), 1)
    graph = Graph()
    operands = [graph.activation("x", x_q, x), graph.weight("w", w_q, w)]
    graph.node("ConvTranspose", operands, "c", **attributes)
    session = onnxruntime.InferenceSession(graph.proto(["c"]).SerializeToString(), options())
    expected = session.run(None, graph.inputs)[0]
    np.testing.assert_allclose(graph.run(["c"])[0], expected, rtol=1e-5, atol=1e-5)


def test_weights_that_two_share_are_packed_for_each() -> None:
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (1, 2, 5))
    w_q, w = weight(rng, (2, 3, 2), 1)
    graph = Graph()
    x_dq, w_dq = graph.activation("x", x_q, x), graph.weight("w", w_q, w)
    for dilation in (1, 2):
        attributes: dict[str, Any] = {"strides": [4], "dilations": [dilation]}
        graph.node("ConvTranspose", [x_dq, w_dq], f"c{dilation}", **attributes)
    for dilation, found in zip((1, 2), graph.run(["c1", "c2"]), strict=True):
        expected = arithmetic.conv_transpose(
            x_q, x, w_q, w, None, None, strides=[4], dilations=[dilation]
        )
        assert_same(found, expected)
