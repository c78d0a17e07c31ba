"""Resizing: of integers bit for bit the reference, of floats what ONNX says."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from intact.core import arithmetic
from intact.core.qparams import dequantize
from tests.engine.build import (
    Graph,
    activation,
    assert_same,
    each_isa,
    needs_native,
    qparams,
    quick,
)

pytestmark = needs_native
COORDINATES = ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
factors = st.sampled_from([0.3, 0.5, 1.0, 1.5, 2.0, 3.7])


@each_isa
@quick
@given(
    st.integers(0, 2**32 - 1), st.lists(factors, min_size=1, max_size=2),
    st.sampled_from([1, 3, 16, 70]), st.sampled_from(["nearest", "linear"]),
    st.sampled_from(COORDINATES), st.sampled_from(["floor", "ceil", "round_prefer_ceil"]),
    st.booleans(), st.sampled_from([1, 3]),
)  # fmt: skip
def test_integers(
    isa: str, seed: int, scales: list[float], channels: int, mode: Any, coordinates: Any,
    rounding: Any, same: bool, count: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, (2, channels, *rng.integers(4, 8, len(scales))))
    y = x if same else qparams(0.07, 90)
    exact = [float(np.float32(s)) for s in scales]
    expected = arithmetic.resize(
        x_q, x, y, scales=exact, mode=mode, coordinates=coordinates, rounding=rounding
    )
    graph = Graph()
    names = [graph.activation("x", x_q, x), "", graph.constant("s", np.float32([1, 1, *scales]))]
    graph.node(
        "Resize", names, "r", mode=mode, coordinate_transformation_mode=coordinates,
        nearest_mode=rounding,
    )  # fmt: skip
    assert_same(graph.run([graph.quantized("r", y)], isa, count)[0], dequantize(expected, y))


@each_isa
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("sizes", [(9, 14), (2, 3), (5, 7), (1, 20)])
@pytest.mark.parametrize("quantized", [False, True])
def test_floats(
    isa: str, mode: str, coordinates: str, sizes: tuple[int, int], quantized: bool
) -> None:
    if sizes[0] == 1 and coordinates == "pytorch_half_pixel" and mode == "cubic":
        return  # ONNX says that a single value lies at 0; its reference takes -0.5
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (2, 6, 5, 7))
    graph = Graph()
    name = graph.activation("x", x_q, x) if quantized else graph.input("x", dequantize(x_q, x))
    names = [name, "", "", graph.constant("sizes", np.array(sizes))]
    graph.node(
        "Resize", names, "r", mode=mode, coordinate_transformation_mode=coordinates, axes=[2, 3]
    )
    graph.node("Relu", ["r"], "y")
    expected = ReferenceEvaluator(graph.proto(["y"])).run(None, graph.inputs)[0]
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=1e-5, atol=1e-5)
