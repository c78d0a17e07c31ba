"""Gates over what a dynamic depthwise convolution writes: the product is only there quantized."""

from typing import Any

import numpy as np
import pytest

from intact.engine.compile import Model
from tests.engine.build import Graph, assert_same, dynamic_call, each_isa, needs_native, weight

pytestmark = needs_native


def gated(channels: int, kernel: int, function: str, images: int, swapped: bool) -> Graph:
    """The gates come from outside, and may be negative; the pool is an output of its own."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((images, channels, 19, 22)) * 3).astype(np.float32)
    graph, pad = Graph(), kernel // 2
    graph.input("x", x)
    graph.input("gate", rng.standard_normal((images, channels, 1, 1)).astype(np.float32))
    shapes: dict[str, Any] = {"axes": [1, 2, 3], "strides": [1, 1], "dilations": [1, 1]}
    product = dynamic_call(
        graph, "DynamicConv", "x", weight(rng, (channels, 1, kernel, kernel), 0)[0],
        rng.uniform(1e-3, 2e-2, channels).astype(np.float32), group=channels,
        pads=[0, 0, pad, pad, 0, 0, pad, pad], **shapes,
    )  # fmt: skip
    shift = rng.standard_normal((channels, 1, 1)).astype(np.float32)
    value = graph.node("Add", [product, graph.constant("shift", shift)], "value")
    if function == "Swish":
        value = graph.node("Mul", [value, graph.node("Sigmoid", [value], "sigmoid")], "swish")
    elif function != "none":
        value = graph.node(function, [value], "function")
    graph.node("GlobalAveragePool", [value], "mean")
    factors = ["gate", value] if swapped else [value, "gate"]
    last = dynamic_call(
        graph, "DynamicConv", graph.node("Mul", factors, "gated"),
        weight(rng, (5, channels, 1, 1), 0)[0], rng.uniform(1e-3, 1, 5).astype(np.float32), "last",
        group=1, pads=[0] * 8, **shapes,
    )  # fmt: skip
    graph.node("Identity", [value], "value_out")
    graph.node("Identity", [last], "y")
    return graph


def kinds_of(graph: Graph, outputs: list[str], isa: str) -> list[str]:
    model = Model(graph.proto(outputs), 2, lambda _: pytest.fail("not needed"), isa)
    return [i.kind for i in model.executable(graph.inputs).instructions]


@each_isa
@pytest.mark.parametrize("function", ["none", "Relu", "HardSwish", "Swish"])
@pytest.mark.parametrize(("channels", "kernel"), [(8, 3), (40, 3), (144, 5)])
@pytest.mark.parametrize("images", [1, 3])
def test_gates_of_lines(isa: str, function: str, channels: int, kernel: int, images: int) -> None:
    """Bit for bit what becomes of a product that is quantized by itself."""
    graph = gated(channels, kernel, function, images, swapped=channels == 40)
    kinds = [
        kinds_of(graph, outputs, isa) for outputs in (["y", "mean"], ["y", "mean", "value_out"])
    ]
    assert ["quantize_gated" in of for of in kinds] == [True, False]
    assert ["binary" in of for of in kinds] == [False, True]
    expected, _, value = graph.run(["y", "mean", "value_out"], isa)
    results = [graph.run(["y", "mean"], isa, threads) for threads in (1, 3)]
    for y, mean in results:
        assert_same(y, expected)
        np.testing.assert_allclose(
            mean, value.mean(axis=(2, 3), keepdims=True, dtype=np.float64), rtol=2e-6, atol=1e-6
        )
        assert_same(mean, results[0][1])


@each_isa
def test_a_gate_for_each_pixel_is_no_gate_of_channels(isa: str) -> None:
    graph = gated(8, 3, "none", 1, False)
    shape = graph.inputs["x"].shape
    graph.inputs["gate"] = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    kinds = kinds_of(graph, ["y", "mean"], isa)
    assert "quantize_gated" not in kinds and "binary" in kinds
