"""Operators in float32: within the tolerance that they state."""

import math
from typing import Any

import numpy as np
import pytest

from intact.core.arithmetic import FUNCTIONS
from intact.engine.compile import Model
from tests.engine.build import Graph, assert_same, dynamic_call, each_isa, needs_native, weight

pytestmark = needs_native
RNG = np.random.default_rng(0)


@each_isa
@pytest.mark.parametrize("op_type", ["Gelu", "Sigmoid", "Tanh", "Relu", "HardSwish", "HardSigmoid"])
def test_functions(isa: str, op_type: str) -> None:
    """Within 1e-6, or 2e-6 of the value."""
    x = np.concatenate([np.linspace(-12, 12, 4001), [-1e30, -200, 0, 1e-6, 90, 1e30]])
    x = x.astype(np.float32)
    graph = Graph()
    graph.node(op_type, [graph.input("x", x)], "y")
    expected = FUNCTIONS[op_type](x.astype(np.float64))
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=2e-6, atol=1e-6)


@each_isa
def test_swish(isa: str) -> None:
    """x sigmoid(x), as one function, within 1e-6, or 2e-6 of the value."""
    x = np.concatenate([np.linspace(-20, 20, 16001), [-1e30, -200, 0, 1e-6, 90, 1e30]])
    x = x.astype(np.float32)
    graph = Graph()
    graph.node("Sigmoid", [graph.input("x", x)], "sigmoid")
    graph.node("Mul", ["x", "sigmoid"], "y")
    expected = FUNCTIONS["Swish"](x.astype(np.float64))
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=2e-6, atol=1e-6)


@each_isa
@pytest.mark.parametrize("size", [1, 7, 16, 100, 768])
def test_layer_norm(isa: str, size: int) -> None:
    x = (3 + 5 * RNG.standard_normal((2, 3, size))).astype(np.float32)
    gamma, beta = RNG.standard_normal((2, size), np.float32)
    graph = Graph()
    operands = [graph.input("x", x), graph.constant("g", gamma), graph.constant("b", beta)]
    graph.node("LayerNormalization", operands, "y", axis=-1, epsilon=1e-5)
    exact = x.astype(np.float64)
    centered = exact - exact.mean(axis=-1, keepdims=True)
    expected = centered / np.sqrt(exact.var(axis=-1, keepdims=True) + 1e-5) * gamma + beta
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=1e-4, atol=1e-5)


@each_isa
@pytest.mark.parametrize("shape", [(1, 2, 5, 8), (2, 3, 33, 20), (1, 1, 64, 64), (1, 1, 15, 130)])
@pytest.mark.parametrize("mask", ["none", "rows", "empty"])
def test_attention(isa: str, shape: tuple[int, ...], mask: str) -> None:
    batch, _, length, width = shape
    q, k, v = (RNG.standard_normal(shape).astype(np.float32) for _ in range(3))
    masked = np.zeros((batch, 1, length, length), np.float32)
    masked[..., length // 2 :] = -np.inf
    if mask == "empty":
        masked[:, :, 0] = -np.inf
    graph = Graph()
    names = [graph.input(name, array) for name, array in (("q", q), ("k", k), ("v", v))]
    graph.node("Transpose", [names[1]], "kt", perm=[0, 1, 3, 2])
    graph.node("Mul", ["q", graph.constant("f", np.float32(1 / math.sqrt(width)))], "qs")
    scores = graph.node("MatMul", ["qs", "kt"], "scores")
    if mask != "none":
        scores = graph.node("Add", [scores, graph.input("m", masked)], "masked")
    p = graph.node("Softmax", [scores], "p", axis=-1)
    if mask == "empty":
        p = graph.node(
            "Where", [graph.node("IsNaN", [p], "n"), graph.constant("0", np.float32(0)), p], "w"
        )
    graph.node("Transpose", [graph.node("MatMul", [p, "v"], "a")], "y", perm=[0, 2, 1, 3])
    exact = q.astype(np.float64) @ np.swapaxes(k, 2, 3) / math.sqrt(width)
    if mask != "none":
        exact = exact + masked
    with np.errstate(invalid="ignore"):
        weights = np.exp(exact - exact.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
    if mask == "empty":
        weights = np.nan_to_num(weights)
    expected = np.swapaxes(weights @ v, 1, 2)
    # AVX-512 multiplies pairs of 16 bits.
    within = (1e-4 if isa.startswith("avx512") else 1e-5) * np.abs(v).max()
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=1e-4, atol=within)


VIEWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Transpose", {"perm": [2, 0, 1]}, {}),
    ("Reshape", {}, {"shape": np.array([6, -1])}),
    ("Flatten", {"axis": 2}, {}),
    ("Unsqueeze", {}, {"axes": np.array([1])}),
    ("Slice", {}, {"s": np.array([1]), "e": np.array([3]), "a": np.array([1])}),
    ("Gather", {"axis": 1}, {"i": np.array(-1)}),
    ("Pad", {}, {"pads": np.zeros(6, np.int64)}),
    ("Expand", {}, {"shape": np.array([2, 2, 3, 4])}),
]


@each_isa
@pytest.mark.parametrize(("op_type", "attributes", "constants"), VIEWS)
def test_views_are_those_of_onnx(
    isa: str, op_type: str, attributes: dict[str, Any], constants: dict[str, Any]
) -> None:
    from onnx.reference import ReferenceEvaluator

    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    graph = Graph()
    names = [graph.input("x", x), *(graph.constant(k, v) for k, v in constants.items())]
    graph.node(op_type, names, "v", **attributes)
    graph.node("Tanh", ["v"], "y")
    expected = ReferenceEvaluator(graph.proto(["y"])).run(None, graph.inputs)[0]
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, atol=1e-6)


@each_isa
@pytest.mark.parametrize("shapes", [((2, 3, 4), (4,)), ((2, 3, 4), (2, 3, 4)), ((2, 3, 4), (3, 1)),
                                    ((2, 3, 4), (2, 1, 4)), ((2, 3, 4), ())])  # fmt: skip
@pytest.mark.parametrize("op_type", ["Add", "Mul"])
def test_sums_and_products_broadcast(isa: str, shapes: Any, op_type: str) -> None:
    a, b = (RNG.standard_normal(shape).astype(np.float32) for shape in shapes)
    graph = Graph()
    graph.node(op_type, [graph.input("a", a), graph.input("b", np.asarray(b))], "y")
    expected = a + b if op_type == "Add" else a * b
    np.testing.assert_array_equal(graph.run(["y"], isa)[0], expected)


@each_isa
@pytest.mark.parametrize("axes", [[1], [-1], [0, 2], [1, 2], [0, 1, 2, 3], [2, 3]])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("op_type", ["ReduceMax", "ReduceMean", "ReduceSum"])
def test_reductions_of_any_axes(isa: str, axes: list[int], keepdims: int, op_type: str) -> None:
    x = RNG.standard_normal((2, 3, 5, 17)).astype(np.float32)
    graph = Graph()
    operands = [graph.input("x", x), graph.constant("axes", np.array(axes))]
    graph.node(op_type, operands, "y", keepdims=keepdims)
    reduce = {"ReduceMax": np.max, "ReduceMean": np.mean, "ReduceSum": np.sum}[op_type]
    expected = reduce(x.astype(np.float64), axis=tuple(axes), keepdims=bool(keepdims))
    found = graph.run(["y"], isa)[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@each_isa
@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("shape", [(2, 1, 5), (3, 40, 17)])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax(isa: str, op_type: str, shape: tuple[int, ...], axis: int) -> None:
    x = (20 * RNG.standard_normal(shape)).astype(np.float32)
    graph = Graph()
    graph.node(op_type, [graph.input("x", x)], "y", axis=axis)
    moved = x.astype(np.float64) - x.max(axis=axis, keepdims=True)
    expected = moved - np.log(np.exp(moved).sum(axis=axis, keepdims=True))
    if op_type == "Softmax":
        expected = np.exp(expected)
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=1e-5, atol=1e-6)


@each_isa
@pytest.mark.parametrize("rows", [1, 5, 6, 13, 100])
def test_pointwise_convolutions_of_floats(isa: str, rows: int) -> None:
    """Rows and columns below, at and above a block."""
    for k, n in ((1, 1), (7, 64), (50, 65), (33, 200)):
        x = RNG.standard_normal((rows, k, 1, 1)).astype(np.float32)
        w, b = RNG.standard_normal((n, k), np.float32), RNG.standard_normal(n, np.float32)
        graph = Graph()
        operands = [
            graph.input("x", x),
            graph.constant("w", w[..., None, None]),
            graph.constant("b", b),
        ]
        graph.node("Conv", operands, "y")
        expected = x[..., 0, 0].astype(np.float64) @ w.T + b
        found = graph.run(["y"], isa, 2)[0]
        assert found.shape == (rows, n, 1, 1)
        np.testing.assert_allclose(found[..., 0, 0], expected, rtol=1e-4, atol=1e-5)


@each_isa
@pytest.mark.parametrize(("channels", "out"), [(16, 96), (24, 80), (40, 144), (24, 48)])
@pytest.mark.parametrize("spread", [0.3, 4.0, 60.0])
def test_swish_to_bytes_of_a_found_range(isa: str, channels: int, out: int, spread: float) -> None:
    """Within 1e-3 of half a step of the exact value, whatever else is in the batch."""
    rng = np.random.default_rng(0)
    shapes: dict[str, Any] = {"axes": [1, 2, 3], "strides": [1, 1], "dilations": [1, 1]}
    x = rng.standard_normal((2, channels, 64, 65)) * [[[[spread]]], [[[spread / 7]]]]
    graph = Graph()
    product = dynamic_call(
        graph, "DynamicConv", graph.input("x", x.astype(np.float32)),
        weight(rng, (out, channels, 1, 1), 0)[0],
        rng.uniform(1e-3, 4e-3, out).astype(np.float32), pads=[0] * 8, group=1, **shapes,
    )  # fmt: skip
    shift = graph.constant("shift", rng.standard_normal((out, 1, 1)).astype(np.float32))
    value = graph.node("Add", [product, shift], "value")
    swish = graph.node("Mul", [value, graph.node("Sigmoid", [value], "sigmoid")], "swish")
    # A product with one: the bytes, times their scale.
    identity = (127 * np.eye(out, dtype=np.int8)).reshape(out, out, 1, 1)
    dynamic_call(
        graph, "DynamicConv", swish, identity, np.full(out, 1 / 127, np.float32), "y",
        pads=[0] * 8, group=1, **shapes,
    )  # fmt: skip
    y = graph.run(["y"], isa)[0]
    single = Graph(graph.nodes[:2], graph.inputs, graph.constants, graph.domains)
    exact = FUNCTIONS["Swish"](single.run([value], isa)[0].astype(np.float64))
    for image, expected in zip(y, exact, strict=True):
        scale = (max(expected.max(), 0) - min(expected.min(), 0)) / 255
        assert np.abs(image / scale - expected / scale).max() <= 0.501
    alone = Graph(graph.nodes, {"x": graph.inputs["x"][1:]}, graph.constants, graph.domains)
    for threads in (2, 3):
        assert_same(graph.run(["y"], isa, threads)[0], y)
        assert_same(alone.run(["y"], isa, threads)[0], y[1:])
    model = Model(graph.proto(["y"]), 2, lambda _: pytest.fail("not needed"), isa)
    found = any(i.parameters.get("found") for i in model.executable(graph.inputs).instructions)
    assert found == (out * 64 * 65 >= 2**18)
