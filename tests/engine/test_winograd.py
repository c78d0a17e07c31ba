"""3x3 convolutions by tiles compute what the integer reference computes.

Bit for bit, on every instruction set that has them.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intact.core import arithmetic
from intact.core.qparams import dequantize
from intact.engine.compile import Model
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
TILED = ("avx512_vbmi", "avx512_vnni", "avx_vnni", "avx2")


def ways(graph: Graph, outputs: list[str], isa: str, threads: int) -> list[bool]:
    """Whether each convolution is computed by tiles."""
    model = Model(graph.proto(outputs), threads, None, isa)  # type: ignore[arg-type]
    steps = model.profile(graph.inputs, 1)
    return [label.endswith("(Winograd)") for label, _ in steps if "convolution" in label]


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    group = draw(st.sampled_from([1, 1, 1, 2]))
    return {
        "images": draw(st.integers(1, 3)), "group": group,
        "inputs": group * draw(st.sampled_from([32, 64, 96, 160])),
        "outputs": group * draw(st.sampled_from([16, 33, 48, 64, 80, 130])),
        # Tiles of four and of two at the edges, and parts of them.
        "spatial": [draw(st.integers(12, 23)) for _ in range(2)],
        "pads": [draw(st.integers(0, 2)) for _ in range(4)],
    }  # fmt: skip


@each_isa
@quick
@given(
    st.integers(0, 2**32 - 1), shapes(), st.sampled_from(["uint8", "int8"]),
    st.sampled_from([1, 2, 3]), st.sampled_from(["bytes", "floats", "sum", "table"]),
)  # fmt: skip
def test_conv_by_tiles(
    isa: str, seed: int, g: dict[str, Any], dtype: Any, count: int, end: str
) -> None:
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, (g["images"], g["inputs"], *g["spatial"]), dtype)
    w_q, w = weight(rng, (g["outputs"], g["inputs"] // g["group"], 3, 3), 0)
    b_q, b = bias(rng, x, w, g["outputs"])
    attributes = {"pads": g["pads"], "group": g["group"]}
    real = arithmetic.conv(x_q, x, w_q, w, b_q, None, **attributes)
    y = output(real, dtype)
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("Conv", operands, "c", **attributes)
    y_q = arithmetic.conv(x_q, x, w_q, w, b_q, y, **attributes)
    expected = real
    result = "c"
    if end != "floats":
        result, expected = graph.quantized("c", y), dequantize(y_q, y)
    if end == "sum":
        other_q, other = activation(rng, real.shape, dtype)
        z = output(expected + dequantize(other_q, other), dtype)
        graph.node("Add", [result, graph.activation("other", other_q, other)], "s")
        result = graph.quantized("s", z)
        expected = dequantize(arithmetic.add(y_q, y, other_q, other, z), z)
    if end == "table":
        z = output(np.tanh(expected), dtype)
        graph.node("Tanh", [result], "t")
        result = graph.quantized("t", z)
        expected = dequantize(arithmetic.lookup(y_q, arithmetic.table(np.tanh, y, z)), z)
    assert_same(graph.run([result], isa, count)[0], expected)
    assert isa in TILED or not any(ways(graph, [result], isa, count))


@each_isa
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    ("images", "inputs", "outputs", "size"),
    [(1, 32, 32, 31), (1, 64, 64, 56), (2, 128, 96, 28), (1, 256, 256, 14), (9, 512, 64, 7)],
)
def test_shapes_of_networks(
    isa: str, images: int, inputs: int, outputs: int, size: int, count: int
) -> None:
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (images, inputs, size, size))
    w_q, w = weight(rng, (outputs, inputs, 3, 3), 0)
    w_q //= 2  # as of networks, whose weights are not as large as each other
    b_q, b = bias(rng, x, w, outputs)
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("Conv", operands, "c", pads=[1] * 4)
    real = arithmetic.conv(x_q, x, w_q, w, b_q, None, pads=[1] * 4)
    y = output(real)
    result = graph.quantized("c", y)
    expected = dequantize(arithmetic.conv(x_q, x, w_q, w, b_q, y, pads=[1] * 4), y)
    assert_same(graph.run([result], isa, count)[0], expected)
    assert ways(graph, [result], isa, count) == [isa in TILED]


@each_isa
@pytest.mark.parametrize("inputs", [96, 128])
def test_largest_sums(isa: str, inputs: int) -> None:
    """All bytes and weights at an end: sums of 128 channels do not fit what tiles compute."""
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (4, inputs, 15, 14))
    x_q[:2] = 255
    x_q[0, :, ::2] = 0
    w_q, w = weight(rng, (18, inputs, 3, 3), 0)
    w_q[:8] = np.array([-127, 127, -127, 127, -127, 127, 127, 127]).reshape(-1, 1, 1, 1)
    w_q[:4, :, 1] *= -1
    w_q[4:6, :, :, 1] *= -1
    graph = Graph()
    operands = [graph.activation("x", x_q, x), graph.weight("w", w_q, w)]
    graph.node("Conv", operands, "c", pads=[1] * 4)
    expected = arithmetic.conv(x_q, x, w_q, w, None, None, pads=[1] * 4)
    assert_same(graph.run(["c"], isa, 2)[0], expected)
    assert ways(graph, ["c"], isa, 2) == [isa in TILED and inputs == 96]


@each_isa
@pytest.mark.parametrize("count", [1, 3])
def test_dynamic_conv_by_tiles(isa: str, count: int) -> None:
    """Each image has its own scale and zero point, and is padded with it."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 64, 18, 17)).astype(np.float32)
    x *= np.array([1, 3, 0.2], np.float32).reshape(-1, 1, 1, 1)
    x[2] += 1
    w = weight(rng, (40, 64, 3, 3), 0)[0]
    scale = rng.uniform(1e-3, 1e-2, 40).astype(np.float32)
    graph = Graph()
    found = dynamic_call(
        graph, "DynamicConv", graph.input("x", x), w, scale, axes=[1, 2, 3], strides=[1, 1],
        dilations=[1, 1], group=1, pads=[0, 0, 1, 1, 0, 0, 1, 1],
    )  # fmt: skip
    expected = arithmetic.dynamic_conv(x, w, scale, np.zeros(40, np.float32), pads=[1] * 4)
    assert_same(graph.run([found], isa, count)[0], expected)
    assert ways(graph, [found], isa, count) == [isa in TILED]
