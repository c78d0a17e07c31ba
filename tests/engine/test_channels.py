"""Sums, products and what differs by channel: of integers bit for bit the reference."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from intact.core import arithmetic
from intact.core.qparams import dequantize, quantize
from tests.engine.build import (
    Graph,
    activation,
    assert_same,
    each_isa,
    needs_native,
    output,
    qparams,
    quick,
)

pytestmark = needs_native
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["uint8", "int8"])
threads = st.sampled_from([1, 3])
shapes = st.sampled_from(
    [((2, 19, 5, 7), (2, 19, 5, 7)), ((2, 3, 4, 5), (1, 3, 1, 1)), ((2, 6, 4, 5), (2, 1, 4, 5)),
     ((5,), (4, 5)), ((3, 1, 5), (2, 1, 4, 1)), ((2, 3, 4), ()), ((2, 8, 1, 1), (2, 8, 9, 9)),
     ((2, 70, 60), (2, 70, 60))]
)  # fmt: skip


@each_isa
@quick
@given(seeds, shapes, dtypes, threads)
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_two_activations(
    isa: str, op_type: str, seed: int, shape: Any, dtype: Any, count: int
) -> None:
    rng = np.random.default_rng(seed)
    (a_q, a), (b_q, b) = (activation(rng, s, dtype) for s in shape)
    if op_type == "Div":
        b_q = np.where(b_q == b.zero_point, b_q ^ 1, b_q).astype(dtype)
    function = getattr(arithmetic, op_type.lower())
    y = output(function(a_q, a, b_q, b), dtype)
    graph = Graph()
    graph.node(op_type, [graph.activation("a", a_q, a), graph.activation("b", b_q, b)], "r")
    expected = dequantize(function(a_q, a, b_q, b, y), y)
    assert_same(graph.run([graph.quantized("r", y)], isa, count)[0], expected)


@each_isa
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul"])
def test_two_activations_in_floats(isa: str, op_type: str) -> None:
    """Where nothing quantizes the result."""
    rng = np.random.default_rng(0)
    for shapes in (((2, 9, 5, 7), (2, 9, 5, 7)), ((2, 9, 5, 7), (2, 9, 1, 1))):
        (a_q, a), (b_q, b) = (activation(rng, s) for s in shapes)
        graph = Graph()
        graph.node(op_type, [graph.activation("a", a_q, a), graph.activation("b", b_q, b)], "r")
        expected = getattr(arithmetic, op_type.lower())(a_q, a, b_q, b)
        np.testing.assert_allclose(graph.run(["r"], isa)[0], expected, rtol=1e-6, atol=1e-6)


def real(op_type: str, x: Any, constant: Any, swapped: bool) -> Any:
    operation = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}[op_type]
    return operation(constant, x) if swapped else operation(x, constant)


@each_isa
@quick
@given(seeds, st.sampled_from([(1, 21, 1, 1), (21, 1, 1), (7,), (2, 1, 1, 7)]), st.booleans())
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_with_constants(
    isa: str, op_type: str, seed: int, shape: tuple[int, ...], swapped: bool
) -> None:
    """float32 of the dequantized value, quantized."""
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, (2, 21, 5, 7))
    if op_type == "Div":
        x_q = np.where(x_q == x.zero_point, x_q ^ 1, x_q)
    constant = (rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape)).astype(np.float32)
    result = real(op_type, dequantize(x_q, x), constant, swapped)
    y = output(result)
    graph = Graph()
    names = [graph.activation("x", x_q, x), graph.constant("k", constant)]
    graph.node(op_type, names[::-1] if swapped else names, "r")
    found = graph.run([graph.quantized("r", y)], isa)[0]
    assert_same(found, dequantize(quantize(result, y), y))


@each_isa
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div", "Pow"])
@pytest.mark.parametrize("swapped", [False, True])
def test_with_a_number_it_is_a_table(isa: str, op_type: str, swapped: bool) -> None:
    if op_type == "Pow" and swapped:
        return  # only constant exponents
    x_q, x = np.arange(1, 257).astype(np.uint8).reshape(1, 4, 8, 8), qparams(0.05, 0)
    x_q = np.maximum(x_q, 1)
    exact = dequantize(x_q, x).astype(np.float64)
    result = exact**1.5 if op_type == "Pow" else real(op_type, exact, 1.5, swapped)
    y = output(result)
    graph = Graph()
    names = [graph.activation("x", x_q, x), graph.constant("k", np.float32(1.5))]
    graph.node(op_type, names[::-1] if swapped else names, "r")
    found = graph.run([graph.quantized("r", y)], isa)[0]
    assert_same(found, dequantize(quantize(result.astype(np.float32), y), y))


def normalization(rng: np.random.Generator, channels: int) -> list[Any]:
    gamma, beta, mean = rng.standard_normal((3, channels)).astype(np.float32)
    return [gamma, beta, mean, rng.uniform(0.1, 2, channels).astype(np.float32)]


@each_isa
@quick
@given(seeds, st.sampled_from([(2, 19, 5, 7), (3, 64, 4), (2, 5), (1, 130, 3, 3)]), dtypes,
       st.sampled_from(["", "Relu", "PRelu"]), threads)  # fmt: skip
def test_batch_normalization(
    isa: str, seed: int, shape: tuple[int, ...], dtype: Any, behind: str, count: int
) -> None:
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, shape, dtype)
    parameters = normalization(rng, shape[1])
    result = arithmetic.batch_normalization(x_q, x, *parameters)
    graph = Graph()
    names = [graph.constant(f"p{i}", p) for i, p in enumerate(parameters)]
    last = graph.node("BatchNormalization", [graph.activation("x", x_q, x), *names], "n")
    if behind == "Relu":
        last, result = graph.node("Relu", [last], "r"), np.maximum(result, 0)
    elif behind:
        slope = rng.uniform(-1, 1, (shape[1], *[1] * (len(shape) - 2))).astype(np.float32)
        last = graph.node("PRelu", [last, graph.constant("slope", slope)], "r")
        result = np.where(result < 0, slope * result, result)
    y = output(result, dtype)
    expected = dequantize(quantize(result, y), y)
    assert_same(graph.run([graph.quantized(last, y)], isa, count)[0], expected)
    assert_same(graph.run([last], isa, count)[0], result)
    # Of floats.
    graph.nodes = [node for node in graph.nodes if node.op_type[-6:] != "Linear"]
    graph.nodes[0].input[0] = "x"
    np.testing.assert_allclose(graph.run([last], isa, count)[0], result, rtol=1e-6, atol=1e-6)


@each_isa
@quick
@given(seeds, st.sampled_from([(21, 1, 1), (1, 1, 1), (1,), ()]), dtypes)
def test_prelu(isa: str, seed: int, shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, (2, 21, 5, 7), dtype)
    slope = np.asarray(rng.uniform(-1, 1, shape), np.float32)
    result = arithmetic.prelu(x_q, x, slope)
    y = output(result, dtype)
    graph = Graph()
    graph.node("PRelu", [graph.activation("x", x_q, x), graph.constant("slope", slope)], "r")
    expected = dequantize(arithmetic.prelu(x_q, x, slope, y), y)
    assert_same(graph.run([graph.quantized("r", y)], isa)[0], expected)


@each_isa
@pytest.mark.parametrize("chain", [("Mul", "Add"), ("Add", "Mul"), ("Mul", "Add", "HardSwish")])
def test_constants_one_after_another(isa: str, chain: tuple[str, ...]) -> None:
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (2, 21, 5, 7))
    graph, result = Graph(), dequantize(x_q, x)
    last = graph.activation("x", x_q, x)
    for i, op_type in enumerate(chain):
        if op_type == "HardSwish":
            last = graph.node(op_type, [last], f"r{i}")
            result = arithmetic.FUNCTIONS[op_type](result.astype(np.float64)).astype(np.float32)
            continue
        constant = rng.standard_normal((21, 1, 1)).astype(np.float32)
        last = graph.node(op_type, [last, graph.constant(f"k{i}", constant)], f"r{i}")
        result = real(op_type, result, constant, False)
    y = output(result)
    found = graph.run([graph.quantized(last, y)], isa)[0]
    steps = np.abs(found - dequantize(quantize(result, y), y)) / y.scale
    assert steps.max() <= (1.01 if "HardSwish" in chain else 0)


@each_isa
@pytest.mark.parametrize(
    ("op_type", "function"),
    [("Abs", np.abs), ("Exp", np.exp), ("Neg", np.negative), ("Sqrt", np.sqrt), ("Log", np.log),
     ("Reciprocal", np.reciprocal), ("Elu", arithmetic.FUNCTIONS["Elu"]),
     ("Softplus", arithmetic.FUNCTIONS["Softplus"]), ("Mish", arithmetic.FUNCTIONS["Mish"])],
)  # fmt: skip
def test_functions_that_few_models_have(isa: str, op_type: str, function: Any) -> None:
    """Of integers, whose result is a float or an integer, and of floats: within 2e-6."""
    x_q, x = np.arange(1, 257).clip(1, 255).astype(np.uint8).reshape(1, 4, 8, 8), qparams(0.05, 0)
    exact = np.asarray(function(dequantize(x_q, x).astype(np.float64)))
    for real_input in (True, False):
        graph = Graph()
        value = dequantize(x_q, x)
        name = graph.input("x", value) if real_input else graph.activation("x", x_q, x)
        graph.node(op_type, [name], "f")
        np.testing.assert_allclose(graph.run(["f"], isa)[0], exact, rtol=2e-6, atol=1e-6)
    y = output(exact)
    table = quantize(exact.astype(np.float32), y)
    assert_same(graph.run([graph.quantized("f", y)], isa)[0], dequantize(table, y))


@each_isa
@pytest.mark.parametrize("op_type", ["GroupNormalization", "InstanceNormalization"])
def test_normalization_of_groups(isa: str, op_type: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 12, 5, 7), np.float32)
    gamma, beta = rng.standard_normal((2, 12), np.float32)
    graph = Graph()
    names = [graph.input("x", x), graph.constant("g", gamma), graph.constant("b", beta)]
    attributes = {"num_groups": 3} if op_type[0] == "G" else {}
    graph.node("Relu", [graph.node(op_type, names, "n", **attributes)], "y")
    groups = x.astype(np.float64).reshape(2, attributes.get("num_groups", 12), -1)
    centered = groups - groups.mean(axis=-1, keepdims=True)
    scaled = (centered / np.sqrt(groups.var(axis=-1, keepdims=True) + 1e-5)).reshape(x.shape)
    expected = np.maximum(scaled * gamma.reshape(-1, 1, 1) + beta.reshape(-1, 1, 1), 0)
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op_type", ["ReduceMean", "ReduceMax", "ReduceSum"])
@pytest.mark.parametrize("axes", [(2, 3), (1,), (-1,), (0, 2), (1, 2, 3), ()])
@pytest.mark.parametrize("keeps", [0, 1])
@pytest.mark.parametrize("quantized", [False, True])
def test_reductions(op_type: str, axes: tuple[int, ...], keeps: int, quantized: bool) -> None:
    x_q, x = activation(np.random.default_rng(0), (2, 9, 4, 6))
    value, graph = dequantize(x_q, x), Graph()
    names = [graph.activation("x", x_q, x) if quantized else graph.input("x", value)]
    if axes:
        names.append(graph.constant("axes", np.array(axes)))
    graph.node(op_type, names, "r", keepdims=keeps)
    function = {"ReduceMean": np.mean, "ReduceMax": np.max, "ReduceSum": np.sum}[op_type]
    expected = function(value.astype(np.float64), axis=axes or None, keepdims=bool(keeps))
    np.testing.assert_allclose(graph.run(["r"])[0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "pads", "dilations", "group"),
    [((1, 1), [0] * 4, [1, 1], 1), ((1, 3), [0, 1, 0, 1], [1, 1], 3), ((3, 3), [2] * 4, [2, 2], 1),
     ((3, 2), [1, 0, 1, 1], [1, 1], 1)],
)  # fmt: skip
def test_a_convolution_of_a_single_pixel(
    kernel: tuple[int, int], pads: list[int], dilations: list[int], group: int
) -> None:
    """In float32: the weights that meet the pixel."""
    rng, graph = np.random.default_rng(0), Graph()
    x = graph.input("x", rng.standard_normal((2, 6, 1, 1), np.float32))
    w = graph.constant("w", rng.standard_normal((9, 6 // group, *kernel), np.float32))
    b = graph.constant("b", rng.standard_normal(9, np.float32))
    graph.node("Conv", [x, w, b], "c", pads=pads, dilations=dilations, group=group)
    graph.node("Relu", ["c"], "y")
    expected = ReferenceEvaluator(graph.proto(["y"])).run(None, graph.inputs)[0]
    np.testing.assert_allclose(graph.run(["y"])[0], expected, rtol=1e-5, atol=1e-5)
