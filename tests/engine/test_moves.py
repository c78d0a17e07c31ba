"""What moves integers moves them as ONNX says, in any combination, whatever way they lie."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from intact.core import arithmetic
from intact.core.qparams import QParams, dequantize, quantize
from tests.engine.build import (
    Graph,
    activation,
    assert_same,
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


def reference(graph: Graph, outputs: list[str]) -> list[NDArray[Any]]:
    """What ONNX's own reference makes of the graph."""
    return ReferenceEvaluator(graph.proto(outputs)).run(None, graph.inputs)  # type: ignore[return-value]


class Chain:
    """Operators one after another, each with its result quantized as its input is."""

    def __init__(self, graph: Graph, name: str, shape: tuple[int, ...], q: QParams) -> None:
        self.graph, self.name, self.shape, self.q = graph, name, shape, q

    def then(
        self, op_type: str, shape: tuple[int, ...], *constants: Any, **attributes: Any
    ) -> None:
        label = f"n{len(self.graph.nodes)}"
        names = [self.graph.constant(f"{label}_{i}", c) for i, c in enumerate(constants)]
        self.graph.node(op_type, [self.name, *names], label, **attributes)
        self.name, self.shape = self.graph.quantized(label, self.q), shape


def reshape(chain: Chain, rng: np.random.Generator) -> None:
    size = int(np.prod(chain.shape))
    shape = []
    while size > 1 and len(shape) < 4:
        factors = [d for d in range(1, size + 1) if size % d == 0]
        shape.append(int(rng.choice(factors)))
        size //= shape[-1]
    shape.append(size)
    chain.then("Reshape", tuple(shape), np.asarray(shape, np.int64))


def transpose(chain: Chain, rng: np.random.Generator) -> None:
    order = rng.permutation(len(chain.shape)).tolist()
    chain.then("Transpose", tuple(chain.shape[i] for i in order), perm=order)


def cut(chain: Chain, rng: np.random.Generator) -> None:
    axis = int(rng.integers(len(chain.shape)))
    size, step = chain.shape[axis], int(rng.choice([1, 1, 2, -1, -3]))
    start = int(rng.integers(0, size))
    end = size if step > 0 else -size - 1
    count = len(range(size)[start:end:step] if step > 0 else range(size)[start::step])
    shape = (*chain.shape[:axis], count, *chain.shape[axis + 1 :])
    arrays = [np.asarray([v], np.int64) for v in (start, end, axis, step)]
    chain.then("Slice", shape, *arrays)


def pad(chain: Chain, rng: np.random.Generator) -> None:
    mode = str(rng.choice(["constant", "edge", "reflect"]))
    most = min(chain.shape) - 1 if mode == "reflect" else 2
    amounts = rng.integers(0, max(most, 0) + 1, 2 * len(chain.shape)).astype(np.int64)
    amounts = np.minimum(amounts, 2)
    pairs = zip(chain.shape, amounts[: len(chain.shape)], amounts[len(chain.shape) :], strict=True)
    chain.then("Pad", tuple(int(n + a + b) for n, a, b in pairs), amounts, mode=mode)


def gather(chain: Chain, rng: np.random.Generator) -> None:
    axis = int(rng.integers(len(chain.shape)))
    size = chain.shape[axis]
    index = rng.integers(-size, size, int(rng.integers(1, 5)))
    shape = (*chain.shape[:axis], index.size, *chain.shape[axis + 1 :])
    chain.then("Gather", shape, index.astype(np.int64), axis=axis)


def tile(chain: Chain, rng: np.random.Generator) -> None:
    counts = rng.integers(1, 3, len(chain.shape)).astype(np.int64)
    shape = tuple(int(n * c) for n, c in zip(chain.shape, counts, strict=True))
    chain.then("Tile", shape, counts)


@each_isa
@quick
@given(
    seeds, dtypes, st.sampled_from([(2, 12, 4, 5), (1, 8, 6), (3, 10), (2, 6, 1, 4)]),
    st.lists(st.sampled_from([reshape, transpose, cut, pad, gather, tile]), min_size=1, max_size=5),
)  # fmt: skip
def test_chains(isa: str, seed: int, dtype: Any, shape: tuple[int, ...], steps: list[Any]) -> None:
    rng = np.random.default_rng(seed)
    x_q, x = activation(rng, shape, dtype)
    graph = Graph()
    chain = Chain(graph, graph.activation("x", x_q, x), shape, x)
    for step in steps:
        if np.prod(chain.shape) < 5000:
            step(chain, rng)
    expected = reference(graph, [chain.name])[0]
    assert expected.shape == chain.shape
    assert_same(graph.run([chain.name], isa)[0], expected)


@each_isa
@quick
@given(seeds, st.sampled_from([(2, 29), (3, 5), (4, 16)]), st.booleans())
def test_channel_shuffle(isa: str, seed: int, groups: tuple[int, int], convolved: bool) -> None:
    """As in ShuffleNet: convolution, shuffle, split, and a convolution of one half."""
    rng = np.random.default_rng(seed)
    (g, each), size = groups, (5, 7)
    c = g * each
    x_q, x = activation(rng, (2, c, *size))
    graph = Graph()
    name = graph.activation("x", x_q, x)
    if convolved:
        w_q, w = weight(rng, (c, c, 1, 1), 0)
        x = output(arithmetic.conv(x_q, x, w_q, w, None, None))
        graph.node("Conv", [name, graph.weight("w", w_q, w)], "c")
        name = graph.quantized("c", x)
    chain = Chain(graph, name, (2, c, *size), x)
    chain.then("Reshape", (2, g, each, *size), np.asarray([2, g, each, *size], np.int64))
    chain.then("Transpose", (2, each, g, *size), perm=[0, 2, 1, 3, 4])
    chain.then("Reshape", (2, c, *size), np.asarray([2, c, *size], np.int64))
    half = c // 2
    chain.then("Slice", (2, half, *size), *(np.asarray([v], np.int64) for v in (0, half, 1)))
    v_q, v = weight(rng, (9, half, 3, 3), 0)
    graph.node("Conv", [chain.name, graph.weight("v", v_q, v)], "y")
    # The reference's floats cannot hold every sum: integers from where the last quantization is.
    halved = reference(graph, [chain.name])[0] if not convolved else graph.run([chain.name], isa)[0]
    h_q = np.rint(halved / x.scale + x.zero_point).astype(x.dtype)
    assert_same(graph.run(["y"], isa)[0], arithmetic.conv(h_q, x, v_q, v, None, None))


OPERATORS: list[tuple[str, tuple[int, ...], list[Any], dict[str, Any]]] = [
    ("DepthToSpace", (2, 12, 3, 5), [], {"blocksize": 2, "mode": "DCR"}),
    ("DepthToSpace", (2, 12, 3, 5), [], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", (2, 3, 6, 4), [], {"blocksize": 2}),
    ("Expand", (3, 1, 5), [np.array([2, 3, 4, 5])], {}),
    ("Flatten", (2, 3, 4, 5), [], {"axis": 2}),
    ("GatherElements", (2, 5), [np.array([[0, -1, 2], [4, 3, 3]])], {"axis": 1}),
    ("GatherND", (2, 5, 3), [np.array([[0, 4], [1, -2]])], {}),
    ("Squeeze", (2, 1, 4, 5), [np.array([1])], {}),
    ("Unsqueeze", (2, 4, 5), [np.array([1, 4])], {}),
    ("Identity", (2, 4, 5), [], {}),
]


@each_isa
@pytest.mark.parametrize(("op_type", "shape", "constants", "attributes"), OPERATORS)
@pytest.mark.parametrize("real", [False, True])
def test_operators(
    isa: str, op_type: str, shape: tuple[int, ...], constants: list[Any],
    attributes: dict[str, Any], real: bool,
) -> None:  # fmt: skip
    """Of integers, and of floats."""
    rng, graph = np.random.default_rng(0), Graph()
    x_q, x = activation(rng, shape)
    name = graph.input("x", dequantize(x_q, x)) if real else graph.activation("x", x_q, x)
    names = [graph.constant(f"k{i}", k) for i, k in enumerate(constants)]
    graph.node(op_type, [name, *names], "v", **attributes)
    result = "v" if real else graph.quantized("v", x)
    expected = reference(graph, [result])[0]
    if real:
        graph.node("Relu", ["v"], "y")
        result, expected = "y", np.maximum(expected, 0)
    assert_same(graph.run([result], isa)[0], expected)


@each_isa
@pytest.mark.parametrize("value", [0.0, 0.7])
@pytest.mark.parametrize("real", [False, True])
def test_pad(isa: str, value: float, real: bool) -> None:
    rng, graph = np.random.default_rng(0), Graph()
    x_q, x = activation(rng, (2, 5, 3, 4))
    name = graph.input("x", dequantize(x_q, x)) if real else graph.activation("x", x_q, x)
    pads = graph.constant("pads", np.array([0, 1, -1, 2, 0, 3, 1, 0]))
    graph.node("Pad", [name, pads, graph.constant("v", np.float32(value))], "p")
    around = [(0, 0), (1, 3), (0, 1), (2, 0)]
    expected = np.pad(dequantize(x_q, x), around, constant_values=np.float32(value))[:, :, 1:]
    if real:
        graph.node("Relu", ["p"], "y")
        assert_same(graph.run(["y"], isa)[0], np.maximum(expected, 0))
        return
    y = qparams(0.05, 77)
    result = graph.quantized("p", y)
    assert_same(graph.run([result], isa)[0], dequantize(quantize(expected, y), y))


@each_isa
@quick
@given(seeds, st.integers(0, 3), st.booleans(), st.booleans())
def test_concat(isa: str, seed: int, axis: int, moved: bool, quantized: bool) -> None:
    """Along any axis, of tensors and of views; ending in integers, or in floats."""
    rng, graph = np.random.default_rng(seed), Graph()
    parts, names = [], []
    for i in range(3):
        shape = [2, 6, 4, 3]
        shape[axis] = int(rng.integers(1, 7))
        order = [0, 2, 3, 1] if moved and i == 1 else [0, 1, 2, 3]
        x_q, x = activation(rng, [shape[order.index(k)] for k in range(4)])
        name = graph.activation(f"x{i}", x_q, x)
        if order != [0, 1, 2, 3]:
            graph.node("Transpose", [name], f"t{i}", perm=order)
            name, x_q = graph.quantized(f"t{i}", x), x_q.transpose(order)
        parts.append((x_q, x))
        names.append(name)
    graph.node("Concat", names, "c", axis=axis)
    if not quantized:
        real = np.concatenate([dequantize(*part) for part in parts], axis)
        assert_same(graph.run(["c"], isa)[0], real)
        return
    y = output(np.concatenate([dequantize(*part).ravel() for part in parts]))
    expected = dequantize(arithmetic.concat(parts, axis, y), y)
    assert_same(graph.run([graph.quantized("c", y)], isa)[0], expected)
