"""The engine computes what the integer reference computes, on every instruction set.

Bit for bit.
"""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intact.core import arithmetic
from intact.core.arithmetic import FUNCTIONS
from intact.core.qparams import QParams, dequantize, quantize
from intact.engine import memory
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
    qparams,
    quick,
    weight,
)

pytestmark = needs_native
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["uint8", "int8"])
threads = st.sampled_from([1, 3])


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(1, 2))

    def each(low: int, high: int, count: int = n) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    return {
        "spatial": each(5, 12), "kernel": each(1, 3), "strides": each(1, 3),
        "dilations": each(1, 2), "pads": each(0, 2, 2 * n),
        "group": draw(st.sampled_from([1, 1, 2, 3])),
        # Below, at and above the columns of a block; few and many values of K.
        "inputs": draw(st.sampled_from([1, 3, 4, 17, 64])),
        "outputs": draw(st.sampled_from([1, 5, 16, 24, 33, 40, 64, 70, 144])),
    }  # fmt: skip


@each_isa
@quick
@given(seeds, geometries(), dtypes, dtypes, dtypes, st.booleans(), threads)
def test_conv(
    isa: str, seed: int, g: dict[str, Any], x_dtype: Any, w_dtype: Any, y_dtype: Any,
    per_channel: bool, count: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    group, out = g["group"], g["group"] * g["outputs"]
    x_q, x = activation(rng, (2, group * g["inputs"], *g["spatial"]), x_dtype)
    w_q, w = weight(rng, (out, g["inputs"], *g["kernel"]), 0 if per_channel else None, w_dtype)
    b_q, b = bias(rng, x, w, out)
    attributes = {name: g[name] for name in ("strides", "pads", "dilations", "group")}
    real = arithmetic.conv(x_q, x, w_q, w, b_q, None, **attributes)
    y = output(real, y_dtype)
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("Conv", operands, "c", **attributes)
    result = graph.quantized("c", y)
    expected = dequantize(arithmetic.conv(x_q, x, w_q, w, b_q, y, **attributes), y)
    assert_same(graph.run([result], isa, count)[0], expected)
    graph.nodes = graph.nodes[:-2]  # and without the end: float32
    assert_same(graph.run(["c"], isa, count)[0], real)


@each_isa
@quick
@given(
    seeds, st.sampled_from([2, 16, 32, 33, 64, 130]),
    st.sampled_from([(3, 3), (5, 5), (7, 7), (7, 2), (8, 5), (1, 4)]),
    st.sampled_from([(1, 1), (2, 2), (2, 1), (1, 2), (3, 3)]),
    st.sampled_from([(1, 1), (2, 1), (1, 2)]),
    st.integers(0, 3), st.sampled_from([1, 2]), dtypes, threads,
)  # fmt: skip
def test_depthwise(
    isa: str, seed: int, channels: int, kernel: tuple[int, int], strides: tuple[int, int],
    dilations: tuple[int, int], pad: int, images: int, dtype: Any, count: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, (images, channels, 15, 14), dtype)
    w_q, w = weight(rng, (channels, 1, *kernel), 0)
    b_q, b = bias(rng, x, w, channels)
    attributes: dict[str, Any] = {
        "strides": strides, "dilations": dilations, "pads": [pad, 1, 0, pad],
        "group": channels,
    }  # fmt: skip
    y = output(arithmetic.conv(x_q, x, w_q, w, b_q, None, **attributes), dtype)
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("Conv", operands, "c", **attributes)
    result = graph.quantized("c", y)
    expected = dequantize(arithmetic.conv(x_q, x, w_q, w, b_q, y, **attributes), y)
    assert_same(graph.run([result], isa, count)[0], expected)
    graph.nodes = graph.nodes[:-2]  # and without the end: float32
    real = arithmetic.conv(x_q, x, w_q, w, b_q, None, **attributes)
    assert_same(graph.run(["c"], isa, count)[0], real)


@each_isa
@quick
@given(
    seeds, st.sampled_from([(16, 1, 1), (24, 1, 1), (32, 1, 1), (40, 1, 1), (48, 1, 1), (3, 3, 2)]),
    st.sampled_from([1, 16, 33, 64, 80, 144]), st.sampled_from([(1, 1), (3, 5), (19, 18)]),
    st.sampled_from(["none", "Relu", "HardSwish"]), threads,
)  # fmt: skip
def test_products_of_few_values(
    isa: str, seed: int, shape: tuple[int, int, int], out: int, size: tuple[int, int],
    function: str, count: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    channels, kernel, stride = shape
    x_q, x = activation(rng, (2, channels, *size))
    w_q, w = weight(rng, (out, channels, kernel, kernel), 0)
    b_q, b = bias(rng, x, w, out)
    pads = [kernel // 2] * 4
    attributes: dict[str, Any] = {"strides": [stride] * 2, "pads": pads}
    y = output(arithmetic.conv(x_q, x, w_q, w, b_q, None, **attributes))
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("Conv", operands, "c", **attributes)
    result, expected = (
        graph.quantized("c", y),
        arithmetic.conv(x_q, x, w_q, w, b_q, y, **attributes),
    )
    if function != "none":
        graph.node(function, [result], "f")
        z = output(
            FUNCTIONS[function](dequantize(expected, y).astype(np.float64)).astype(np.float32)
        )
        values = arithmetic.table(FUNCTIONS[function], y, z)
        result, expected, y = graph.quantized("f", z), arithmetic.lookup(expected, values), z
    assert_same(graph.run([result], isa, count)[0], dequantize(expected, y))


@each_isa
@quick
@given(seeds, st.sampled_from([1, 7, 50]), st.sampled_from([1, 63, 200]),
       st.sampled_from([1, 40, 129]), st.booleans())  # fmt: skip
def test_gemm(isa: str, seed: int, rows: int, k: int, n: int, transposed: bool) -> None:
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, (rows, k))
    w_q, w = weight(rng, (n, k) if transposed else (k, n), 0 if transposed else 1)
    b_q, b = bias(rng, x, w, n)
    real = arithmetic.gemm(x_q, x, w_q, w, b_q, None, trans_b=transposed)
    graph = Graph()
    operands = [
        graph.activation("x", x_q, x), graph.weight("w", w_q, w), graph.weight("b", b_q, b),
    ]  # fmt: skip
    graph.node("Gemm", operands, "m", transB=int(transposed))
    assert_same(graph.run(["m"], isa)[0], real)
    y = output(real)
    expected = dequantize(arithmetic.gemm(x_q, x, w_q, w, b_q, y, trans_b=transposed), y)
    assert_same(graph.run([graph.quantized("m", y)], isa)[0], expected)


@each_isa
@quick
@given(seeds, dtypes, threads)
def test_add(isa: str, seed: int, dtype: Any, count: int) -> None:
    rng = np.random.default_rng(seed)
    (a_q, a), (b_q, b) = (activation(rng, (2, 19, 5, 7), dtype) for _ in range(2))
    y = output(arithmetic.add(a_q, a, b_q, b))
    graph = Graph()
    graph.node("Add", [graph.activation("a", a_q, a), graph.activation("b", b_q, b)], "s")
    expected = dequantize(arithmetic.add(a_q, a, b_q, b, y), y)
    assert_same(graph.run([graph.quantized("s", y)], isa, count)[0], expected)


@each_isa
def test_add_rounds_every_pair_of_integers_as_division_does(isa: str) -> None:
    """All 65,536 pairs, with scales whose quotients lie on halves and beside them."""
    a_q, b_q = (m.astype(np.uint8)[None, None] for m in np.mgrid[0:256, 0:256])
    for scales in ((0.5, 0.25, 1.0), (0.1, 0.3, 0.2), (1e-3, 7e-3, 3e-3)):
        a, b, y = (qparams(s, z) for s, z in zip(scales, (3, 130, 90), strict=True))
        graph = Graph()
        graph.node("Add", [graph.activation("a", a_q, a), graph.activation("b", b_q, b)], "s")
        expected = dequantize(arithmetic.add(a_q, a, b_q, b, y), y)
        assert_same(graph.run([graph.quantized("s", y)], isa)[0], expected)


@each_isa
@pytest.mark.parametrize("channels", [16, 64])
@pytest.mark.parametrize("scales", [(0.5, 0.25, 1.0), (0.1, 0.3, 0.2), (1e-3, 7e-3, 3e-3)])
def test_products_add_every_pair_of_integers_as_floats_do(
    isa: str, channels: int, scales: tuple[float, float, float]
) -> None:
    """A product that gives three quarters of all bytes, and every byte as a residual."""
    values, residual = (m.astype(np.uint8)[None, None] for m in np.mgrid[0:256, 0:256])
    y, other, z = (qparams(s, p) for s, p in zip(scales, (97, 130, 90), strict=True))
    x = qparams(scales[0] * 0.75, 128)
    x_q, other_q = np.repeat(values, channels, axis=1), np.repeat(residual, 24, axis=1)
    w_q = np.zeros((24, channels, 1, 1), np.int8)
    w_q[np.arange(24), np.arange(24) % channels] = 1
    w = qparams(1.0, 0)
    graph = Graph()
    operands = [graph.activation("x", x_q, x), graph.weight("w", w_q, w)]
    first = graph.quantized(graph.node("Conv", operands, "c"), y)
    graph.node("Add", [first, graph.activation("other", other_q, other)], "s")
    y_q = arithmetic.conv(x_q, x, w_q, w, None, y)
    expected = dequantize(arithmetic.add(y_q, y, other_q, other, z), z)
    assert_same(graph.run([graph.quantized("s", z)], isa)[0], expected)


@each_isa
@quick
@given(seeds)
def test_gate(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    (a_q, a), (g_q, g) = activation(rng, (2, 21, 4, 5)), activation(rng, (2, 21, 1, 1))
    y = output(arithmetic.mul(a_q, a, g_q, g))
    graph = Graph()
    graph.node("Mul", [graph.activation("g", g_q, g), graph.activation("a", a_q, a)], "m")
    expected = dequantize(arithmetic.mul(a_q, a, g_q, g, y), y)
    assert_same(graph.run([graph.quantized("m", y)], isa)[0], expected)


@each_isa
@pytest.mark.parametrize("op_type", ["Relu", "HardSwish", "Sigmoid", "Tanh", "Elu", "Gelu", "Mish"])
def test_functions_are_tables(isa: str, op_type: str) -> None:
    x_q, x = np.arange(256, dtype=np.uint8).reshape(1, 4, 8, 8), qparams(0.05, 120)
    y = output(FUNCTIONS[op_type](dequantize(x_q, x).astype(np.float64)))
    graph = Graph()
    graph.node(op_type, [graph.activation("x", x_q, x)], "f")
    expected = arithmetic.lookup(x_q, arithmetic.table(FUNCTIONS[op_type], x, y))
    assert_same(graph.run([graph.quantized("f", y)], isa)[0], dequantize(expected, y))


@each_isa
@quick
@given(seeds, st.integers(1, 3), st.integers(1, 2), st.integers(0, 1), st.booleans(), dtypes)
def test_pools(
    isa: str, seed: int, kernel: int, stride: int, pad: int, ceil: bool, dtype: Any
) -> None:
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, (2, 70, 9, 6), dtype)
    pads = [min(pad, kernel - 1)] * 4
    ours: dict[str, Any] = {
        "kernel": [kernel, kernel], "strides": [stride, stride], "pads": pads, "ceil_mode": ceil
    }  # fmt: skip
    theirs = {
        "kernel_shape": ours["kernel"], "strides": ours["strides"], "pads": pads,
        "ceil_mode": int(ceil),
    }  # fmt: skip
    y = qparams(0.07, 10 if dtype == "uint8" else -20, dtype)
    for op_type, reference in (
        ("MaxPool", arithmetic.max_pool),
        ("AveragePool", arithmetic.average_pool),
    ):
        graph = Graph()
        graph.node(op_type, [graph.activation("x", x_q, x)], "p", **theirs)
        expected = dequantize(reference(x_q, x, y, **ours), y)  # type: ignore[operator]
        assert_same(graph.run([graph.quantized("p", y)], isa)[0], expected)
    graph = Graph()
    graph.node("GlobalAveragePool", [graph.activation("x", x_q, x)], "p")
    assert_same(graph.run(["p"], isa)[0], arithmetic.global_average_pool(x_q, x))
    alone = Graph()  # whose lines threads share
    alone.node("GlobalAveragePool", [alone.activation("x", x_q[:1], x)], "p")
    assert_same(alone.run(["p"], isa, 3)[0], arithmetic.global_average_pool(x_q[:1], x))


@each_isa
@quick
@given(seeds)
def test_concat(isa: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    parts = [activation(rng, (2, channels, 3, 5)) for channels in (1, 30, 65)]
    y = output(np.concatenate([dequantize(*part) for part in parts], axis=1))
    graph = Graph()
    names = [graph.activation(f"x{i}", *part) for i, part in enumerate(parts)]
    graph.node("Concat", names, "c", axis=1)
    expected = dequantize(arithmetic.concat(parts, 1, y), y)
    assert_same(graph.run([graph.quantized("c", y)], isa)[0], expected)


@each_isa
@pytest.mark.parametrize("group", [1, 5])
@pytest.mark.parametrize("scales", [(1.0, 1.0, 1.0), (1.0, 0.5, 1.5)])
def test_convolutions_write_where_a_concatenation_has_them(
    monkeypatch: pytest.MonkeyPatch, isa: str, group: int, scales: tuple[float, ...]
) -> None:
    rng = np.random.default_rng(0)
    graph = Graph()
    x = graph.activation("x", *activation(rng, (2, 15, 6, 7)))
    parts = []
    for i, (columns, scale) in enumerate(zip((5, 20, 70), scales, strict=True)):
        w = graph.weight(f"w{i}", *weight(rng, (columns, 15 // group, 1 + i, 1 + i), 0))
        graph.node("Conv", [x, w], f"y{i}", group=group, auto_pad="SAME_UPPER")
        graph.node("Relu" if i else "Identity", [f"y{i}"], f"f{i}")
        parts.append(graph.quantized(f"f{i}", qparams(scale, 7)))
    graph.node("Concat", parts, "c", axis=1)
    graph.quantized("c", qparams(1.0, 7))
    programs = []
    monkeypatch.setattr(
        "intact.engine.compile.place",
        lambda program, outputs: programs.append(program) or memory.place(program, outputs),
    )
    found = graph.run(["c_dq"], isa)[0]
    assert not any(instruction.kind == "move" for instruction in programs[0])
    monkeypatch.setattr("intact.engine.fuse._joins_rows", lambda *_: False)
    assert_same(found, graph.run(["c_dq"], isa)[0])
    assert sum(instruction.kind == "move" for instruction in programs[1]) == 3


@each_isa
@quick
@given(seeds, st.booleans(), st.booleans(), st.sampled_from(["convolution", "depthwise"]),
       st.sampled_from([8, 24, 40, 64, 136]))  # fmt: skip
def test_what_is_fused_computes_the_same(
    isa: str, seed: int, swapped: bool, looked_up: bool, kind: str, channels: int
) -> None:
    """conv, SiLU by table if any, residual sum, clamp: one instruction, the arithmetic of four."""
    rng = np.random.default_rng(seed)
    group = channels if kind == "depthwise" else 1
    x_q, x = activation(rng, (2, channels, 6, 7))
    w_q, w = weight(rng, (channels, channels // group, 3, 3), 0)
    attributes: dict[str, Any] = {"pads": [1, 1, 1, 1], "group": group}
    c = output(arithmetic.conv(x_q, x, w_q, w, **attributes))
    c_q = arithmetic.conv(x_q, x, w_q, w, None, c, **attributes)
    silu = FUNCTIONS["Swish"]
    f, f_q = c, c_q
    if looked_up:
        f = output(silu(dequantize(c_q, c).astype(np.float64)))
        f_q = arithmetic.lookup(c_q, arithmetic.table(silu, c, f))
    total = np.maximum(arithmetic.add(f_q, f, x_q, x), 0)
    s = output(total)
    graph = Graph()
    graph.node(
        "Conv", [graph.activation("x", x_q, x), graph.weight("w", w_q, w)], "c", **attributes
    )
    dq = graph.quantized("c", c)
    if looked_up:
        graph.node("Mul", [dq, graph.node("Sigmoid", [dq], "sigmoid")], "f")
        dq = graph.quantized("f", f)
    operands = [dq, "x_dq"]
    graph.node("Relu", [graph.node("Add", operands[::-1] if swapped else operands, "t")], "s")
    result = graph.quantized("s", s)
    assert_same(graph.run([result], isa)[0], dequantize(quantize(total, s), s))
    from intact.engine.compile import Model

    model = Model(graph.proto([result]), 1, lambda _: pytest.fail("not needed"), isa)
    kinds = [i.kind for i in model.executable(graph.inputs).instructions]
    assert kinds == ["quantize", kind, "dequantize"]


@each_isa
@quick
@given(seeds, st.sampled_from([1, 31, 130]), st.sampled_from([1, 16, 70]), threads,
       st.sampled_from([1e-30, 1.0, 1e4]))  # fmt: skip
def test_dynamic_matmul(isa: str, seed: int, k: int, n: int, count: int, magnitude: float) -> None:
    rng = np.random.default_rng(seed)
    x = (magnitude * rng.standard_normal((3, 5, k))).astype(np.float32)
    w, scale = weight(rng, (k, n), 1)[0], rng.uniform(1e-3, 1, n).astype(np.float32)
    shift = rng.standard_normal(n, np.float32)
    graph = Graph()
    dynamic_call(graph, "DynamicMatMul", graph.input("x", x), w, scale)
    graph.node("Add", ["product", graph.constant("b", shift)], "y")
    assert_same(graph.run(["y"], isa, count)[0], arithmetic.dynamic_matmul(x, w, scale, shift))


@each_isa
@quick
@given(seeds, st.sampled_from([1, 2, 34]), st.sampled_from([1, 2]), st.integers(0, 2), threads)
def test_dynamic_conv(isa: str, seed: int, group: int, stride: int, pad: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    channels, out = 34, 68 if group < 34 else 34  # 34 groups: depthwise
    x = (rng.standard_normal((3, channels, 9, 8)) * [[[[1]]], [[[5]]], [[[0.1]]]]).astype(
        np.float32
    )
    w = weight(rng, (out, channels // group, 3, 3), 0)[0]
    scale, shift = (
        rng.uniform(1e-3, 1, out).astype(np.float32),
        rng.standard_normal(out, np.float32),
    )
    strides, pads = [stride, 1], [pad, 0, 1, pad]
    graph = Graph()
    dynamic_call(
        graph, "DynamicConv", graph.input("x", x), w, scale, axes=[1, 2, 3], strides=strides,
        dilations=[1, 1], group=group, pads=[0, 0, *pads[:2], 0, 0, *pads[2:]],
    )  # fmt: skip
    graph.node("Add", ["product", graph.constant("b", shift.reshape(-1, 1, 1))], "y")
    reference = partial(arithmetic.dynamic_conv, strides=strides, pads=pads, group=group)
    expected = reference(x, w, scale, shift)
    assert_same(graph.run(["y"], isa, count)[0], expected)
    # Whatever else is in the batch.
    alone = Graph(graph.nodes, {"x": x[1:2]}, graph.constants, graph.domains)
    assert_same(alone.run(["y"], isa, count)[0], expected[1:2])


# Kinds of producers whose ranges are found as they write: twice computed ones, floats, depthwise.
CHAINS = {
    "twice": (16, 1, 72), "of 24": (24, 1, 144), "of 40": (40, 1, 130), "first": (3, 3, 64),
    "floats": (16, 3, 40), "depthwise": (16, 3, 16), "wide depthwise": (96, 3, 96),
    "5x5 depthwise": (70, 5, 70),
}  # fmt: skip


@each_isa
@pytest.mark.parametrize("kind", CHAINS)
@pytest.mark.parametrize("function", ["Relu", "HardSwish", "Clip", "none"])
def test_ranges_that_producers_find(isa: str, kind: str, function: str) -> None:
    rng = np.random.default_rng(0)
    channels, kernel, out = CHAINS[kind]
    group = channels if "depthwise" in kind else 1
    x = (rng.standard_normal((2, channels, 64, 65)) * [[[[1]]], [[[7]]]]).astype(np.float32)
    graph, pad = Graph(), kernel // 2
    first = weight(rng, (out, channels // group, kernel, kernel), 0)[0]
    second = weight(rng, (5, out, 1, 1), 0)[0]
    scales = [rng.uniform(1e-3, 1, n).astype(np.float32) for n in (out, 5)]
    shift = rng.standard_normal(out, np.float32)

    def call(name: str, source: str, w: Any, scale: Any, around: int, groups: int) -> str:
        shape = (-1, 1, 1, 1)
        names = [
            source, graph.constant(f"{name}_w", w),
            graph.constant(f"{name}_scale", scale.reshape(shape)),
            graph.constant(f"{name}_sum", w.astype(np.int32).sum(axis=(1, 2, 3)).reshape(shape)),
        ]  # fmt: skip
        return graph.node(
            "DynamicConv", names, name, domain="intact", axes=[1, 2, 3], strides=[1, 1],
            dilations=[1, 1], group=groups, pads=[0, 0, around, around, 0, 0, around, around],
        )  # fmt: skip

    product = call("a", graph.input("x", x), first, scales[0], pad, group)
    value = graph.node("Add", [product, graph.constant("b", shift.reshape(-1, 1, 1))], "s")
    if function == "Clip":
        value = graph.node(
            "Clip",
            [value, graph.constant("l", np.float32(0)), graph.constant("h", np.float32(6))],
            "f",
        )
    elif function != "none":
        value = graph.node(function, [value], "f")
    call("y", value, second, scales[1], 0, 1)
    middle = arithmetic.dynamic_conv(x, first, scales[0], shift, pads=[pad] * 4, group=group)
    if function != "none":
        # The engine's own floats: the reference computes functions in float64.
        single = Graph(graph.nodes[:-1], graph.inputs, graph.constants, graph.domains)
        middle = single.run([value], isa)[0]
    expected = arithmetic.dynamic_conv(middle, second, scales[1], np.zeros(5, np.float32))
    for count in (1, 3):
        assert_same(graph.run(["y"], isa, count)[0], expected)
    model = Model(graph.proto(["y"]), 2, None, isa)  # type: ignore[arg-type]
    instructions = model.executable(graph.inputs).instructions
    _, *rest = (i for i in instructions if i.kind == "quantize_rows")
    assert all(i.parameters["extremes"] for i in rest)
    found = [i for i in instructions if i.parameters.get("found")]
    assert len(found) == (kind != "floats")


@each_isa
@pytest.mark.parametrize("kernel", [1, 3, 5])
@pytest.mark.parametrize("often", [True, False])
def test_found_steps_that_lie_between_two_integers(isa: str, kernel: int, often: bool) -> None:
    """Floats that are a whole and a half times the scale which is found for them."""
    rng = np.random.default_rng(0)
    channels = 96 if kernel > 1 else 16
    out, group = 96, channels if kernel > 1 else 1
    # With these extremes the scale of the input is 1, and so is that of what is found.
    x = rng.integers(0, 256, (1, channels, 56, 56)).astype(np.float32)
    x[0, :, 0, :2] = [0, 255]
    first = np.zeros((out, channels // group, kernel, kernel), np.int8)
    first[np.arange(out), np.arange(out) % (channels // group), kernel // 2, kernel // 2] = 1
    halves = rng.random(out) < (0.5 if often else 0.02)
    halves[:16] = False
    scale = np.where(halves, 0.5, 1).astype(np.float32)
    second = weight(rng, (5, out, 1, 1), 0)[0]
    shapes = {"axes": [1, 2, 3], "strides": [1, 1], "dilations": [1, 1]}
    graph, pad = Graph(), kernel // 2
    dynamic_call(graph, "DynamicConv", graph.input("x", x), first, scale, group=group,
                 pads=[0, 0, pad, pad, 0, 0, pad, pad], **shapes)  # fmt: skip
    graph.nodes[-1].output[0] = "a"
    names = [
        graph.constant("v", second), graph.constant("v_s", np.ones((5, 1, 1, 1), np.float32)),
        graph.constant("v_n", second.astype(np.int32).sum(axis=(1, 2, 3)).reshape(5, 1, 1, 1)),
    ]  # fmt: skip
    graph.node("DynamicConv", ["a", *names], "y", domain="intact", group=1, pads=[0] * 8, **shapes)
    nothing = np.zeros(out, np.float32)
    middle = arithmetic.dynamic_conv(x, first, scale, nothing, pads=[pad] * 4, group=group)
    assert ((middle % 1) == 0.5).any()
    expected = arithmetic.dynamic_conv(middle, second, np.ones(5, np.float32), nothing[:5])
    assert_same(graph.run(["y"], isa)[0], expected)
    model = Model(graph.proto(["y"]), 2, None, isa)  # type: ignore[arg-type]
    assert any(i.parameters.get("found") for i in model.executable(graph.inputs).instructions)


@each_isa
def test_attention_quantizes_what_it_writes(isa: str) -> None:
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 3, 37, 24)).astype(np.float32) for _ in range(3))
    w, w_q = weight(rng, (72, 5), 1)
    graph = Graph()
    names = [graph.input(name, array) for name, array in (("q", q), ("k", k), ("v", v))]
    graph.node("Transpose", [names[1]], "kt", perm=[0, 1, 3, 2])
    p = graph.node("Softmax", [graph.node("MatMul", ["q", "kt"], "scores")], "p", axis=-1)
    graph.node("Transpose", [graph.node("MatMul", [p, "v"], "a")], "t", perm=[0, 2, 1, 3])
    graph.node("Reshape", ["t", graph.constant("shape", np.array([2, 37, 72]))], "y")
    x_q = QParams(np.float32(0.02), np.int32(117), "uint8")
    graph.quantized("y", x_q)
    graph.node("MatMul", ["y_dq", graph.weight("w", w, w_q)], "z")
    floats, found = graph.run(["y", "z"], isa)
    integers = quantize(floats, x_q)
    expected = dequantize(integers, x_q).astype(np.float64) @ dequantize(w, w_q)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    model = Model(graph.proto(["z"]), 2, None, isa)  # type: ignore[arg-type]
    kinds = [i.kind for i in model.executable(graph.inputs).instructions]
    assert kinds == ["attention", "real_convolution"]


@each_isa
def test_conv_whose_windows_reach_far(isa: str) -> None:
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (1, 64, 3, 5))
    w_q, w = weight(rng, (7, 64, 2, 2), 0)
    reach = {"pads": [0, 0, 2000, 2000], "dilations": [2000, 2000]}
    y = output(arithmetic.conv(x_q, x, w_q, w, **reach))
    graph = Graph()
    graph.node("Conv", [graph.activation("x", x_q, x), graph.weight("w", w_q, w)], "c", **reach)
    expected = dequantize(arithmetic.conv(x_q, x, w_q, w, None, y, **reach), y)
    assert_same(graph.run([graph.quantized("c", y)], isa)[0], expected)
