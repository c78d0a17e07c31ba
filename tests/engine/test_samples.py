"""Batches whose samples have nothing to do with each other, computed sample by sample."""

from typing import Any

import numpy as np
import pytest

from intact.core.errors import InputError
from intact.core.native import native
from intact.engine import compile as compiling
from intact.engine import samples
from intact.engine.compile import Model
from tests.engine.build import Graph, assert_same, dynamic_call, each_isa, needs_native, weight
from tests.engine.test_gates import gated

pytestmark = needs_native
RNG = np.random.default_rng(0)
SHAPES: dict[str, Any] = {"axes": [1, 2, 3], "strides": [1, 1], "dilations": [1, 1]}


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """However little a sample has to do."""
    monkeypatch.setattr(samples, "_LEAST_BYTES", 0)
    monkeypatch.setattr(samples, "_LEAST_USES", 0)


def images() -> Graph:
    """A residual block of a dynamic model."""
    graph = Graph()
    x = graph.input("x", RNG.standard_normal((4, 8, 13, 14), np.float32))
    for name in ("a", "b"):
        x = dynamic_call(
            graph, "DynamicConv", x, weight(RNG, (8, 8, 3, 3), 0)[0],
            RNG.uniform(1e-3, 2e-2, 8).astype(np.float32), name, group=1,
            pads=[0, 0, 1, 1, 0, 0, 1, 1], **SHAPES,
        )  # fmt: skip
        x = graph.node("Relu", [x], f"{name}_relu")
    graph.node("MaxPool", [graph.node("Add", [x, "x"], "sum")], "pool", kernel_shape=[2, 2])
    graph.node("Flatten", [graph.node("GlobalAveragePool", ["pool"], "mean")], "y")
    return graph


def text(mask: str) -> Graph:
    """Embeddings, places, a normalization, a product and attention with a mask of this kind."""
    graph, (batch, length, width, heads) = Graph(), (4, 12, 16, 2)
    graph.input("ids", RNG.integers(0, 50, (batch, length)))
    table = graph.constant("table", RNG.standard_normal((50, width), np.float32))
    places = graph.constant("places", RNG.standard_normal((1, length, width), np.float32))
    graph.node("Add", [graph.node("Gather", [table, "ids"], "words"), places], "placed")
    norm = [graph.constant(n, np.full(width, 1.5, np.float32)) for n in ("gamma", "beta")]
    x = graph.node("LayerNormalization", ["placed", *norm], "normed", axis=-1, epsilon=1e-5)
    parts = []
    for name in ("q", "k", "v"):
        product = dynamic_call(
            graph, "DynamicMatMul", x, weight(RNG, (width, width), 1)[0],
            RNG.uniform(1e-3, 2e-2, width).astype(np.float32), name,
        )  # fmt: skip
        shape = graph.constant(f"{name}_shape", np.array([0, 0, heads, -1]))
        graph.node("Reshape", [product, shape], f"{name}_heads")
        order = [0, 2, 3, 1] if name == "k" else [0, 2, 1, 3]
        parts.append(graph.node("Transpose", [f"{name}_heads"], f"{name}_t", perm=order))
    scores = graph.node("MatMul", parts[:2], "scores")
    if mask != "none":
        shape = (batch if mask == "own" else 1, 1, 1, length)
        values = np.where(RNG.random(shape) < 0.3, -1e4, 0).astype(np.float32)
        given = graph.input("mask", values) if mask == "own" else graph.constant("mask", values)
        scores = graph.node("Add", [scores, given], "masked")
    p = graph.node("Softmax", [scores], "p", axis=-1)
    graph.node("Transpose", [graph.node("MatMul", [p, parts[2]], "mixed")], "t", perm=[0, 2, 1, 3])
    graph.node("Reshape", ["t", graph.constant("s", np.array([0, 0, width]))], "all")
    first = graph.constant("first", np.array(0))
    graph.node("Gather", ["all", first], "y", axis=1)
    return graph


GRAPHS = {
    "images": images, "gated": lambda: gated(40, 3, "Swish", 4, False),
    "text": lambda: text("none"), "own mask": lambda: text("own"),
    "common mask": lambda: text("common"),
}  # fmt: skip


def number_of_samples(graph: Graph, threads: int) -> list[int]:
    model = Model(graph.proto(["y"]), threads, lambda _: pytest.fail("not needed"))
    parts = model.executable(graph.inputs).parts
    return [part.samples for part in parts if isinstance(part, compiling.Part)]


@each_isa
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("name", GRAPHS)
def test_samples_one_by_one_are_those_of_the_batch(
    isa: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = GRAPHS[name]()
    assert [number_of_samples(graph, threads) for threads in (1, 2, 3)] == [[4], [4], [1]]
    found = [graph.run(["y"], isa, threads)[0] for threads in (1, 2, 4)]
    monkeypatch.setattr(compiling, "one_sample", lambda *_: None)
    for result in found:
        assert_same(result, graph.run(["y"], isa)[0])


def mixed(name: str) -> Graph:
    """Four samples; what comes of one depends on others."""
    graph = Graph()
    x = graph.input("x", RNG.standard_normal((4, 4), np.float32))
    whole = {n: graph.constant(n, np.array([v])) for n, v in (("0", 0), ("-1", -1), ("-9", -9))}
    if name == "first":
        graph.constant("1", np.array([1]))
        graph.node("Sub", [x, graph.node("Slice", [x, "0", "1", "0"], "of_first")], "y")
    elif name == "backwards":
        graph.node("Slice", [x, whole["-1"], whole["-9"], whole["0"], whole["-1"]], "turned")
        graph.node("Neg", ["turned"], "y")
    elif name == "mean":
        graph.node("Sub", [x, graph.node("ReduceMean", [x, "0"], "mean")], "y")
    elif name == "softmax":
        graph.node("Softmax", [x], "y", axis=0)
    elif name == "across":
        shape = graph.constant("shape", np.array([2, 8]))
        graph.node("Reshape", [graph.node("Transpose", [x], "t", perm=[1, 0]), shape], "r")
        graph.node("LayerNormalization", ["r", graph.constant("g", np.ones(8, np.float32))], "y")
    elif name == "twice":
        graph.node("Neg", [graph.node("Concat", [x, x], "both", axis=0)], "y")
    elif name == "half":
        flat = graph.node("Reshape", [x, graph.constant("shape", np.array([16]))], "flat")
        graph.constant("8", np.array([8]))
        graph.node("Neg", [graph.node("Slice", [flat, "0", "8", "0"], "of_flat")], "y")
    return graph


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "name", ["first", "backwards", "mean", "softmax", "across", "twice", "half"]
)
def test_samples_that_depend_on_each_other_stay_together(name: str) -> None:
    graph = mixed(name)
    assert number_of_samples(graph, 2) == [1]
    x = graph.inputs["x"].astype(np.float64)
    exact = {
        "first": lambda: x - x[:1],
        "backwards": lambda: -x[::-1],
        "mean": lambda: x - x.mean(axis=0),
        "softmax": lambda: np.exp(x) / np.exp(x).sum(axis=0),
        "across": lambda: normalized(x.T.reshape(2, 8)),
        "twice": lambda: -np.concatenate([x, x]),
        "half": lambda: -x.reshape(16)[:8],
    }[name]()
    np.testing.assert_allclose(graph.run(["y"])[0], exact, rtol=1e-4, atol=1e-5)


def normalized(x: Any) -> Any:
    off = x - x.mean(axis=1, keepdims=True)
    return off / np.sqrt((off**2).mean(axis=1, keepdims=True) + 1e-5)


def test_little_work_stays_together() -> None:
    assert number_of_samples(images(), 2) == [1]


@pytest.mark.usefixtures("always")
def test_an_index_beyond_the_table_is_named_whichever_sample_has_it() -> None:
    graph = text("none")
    graph.inputs["ids"][2, 5] = 50
    graph.inputs["ids"][3, 0] = 51
    with pytest.raises(InputError, match="index 50"):
        graph.run(["y"])


def test_what_runs_samples_checks_what_it_is_given() -> None:
    assert native is not None
    engine, alone = native.Engine.create(2, ""), native.Engine.create(1, "")

    def program(of: Any, size: int = 64) -> Any:
        return native.Program(of, 4096, [size], [64])

    for programs, count, common, message in (
        ([program(alone)], 2, [False], "not every thread"),
        ([program(alone), program(engine)], 2, [False], "several threads"),
        ([program(alone), program(alone, 128)], 2, [False], "differ"),
        ([program(alone)] * 2, 0, [False], "no samples"),
        ([program(alone)] * 2, 2, [], "every input"),
        ([program(alone)] * 2, 2**62, [False], "too large"),
    ):
        with pytest.raises(ValueError, match=message):
            native.Samples(engine, programs, count, common)
    two = native.Samples(engine, [program(alone)] * 2, 2, [True])
    y = np.zeros(128, np.uint8)
    two.run([np.zeros(64, np.uint8)], [y])
    for x, out in ((np.zeros(128, np.uint8), y), (np.zeros(64, np.uint8), y[:64])):
        with pytest.raises(ValueError, match="another size"):
            two.run([x], [out])
