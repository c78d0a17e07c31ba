"""What is added to attention's scores: masks that repeat over batch, windows, heads or queries."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from tests.engine.build import Array, Graph, each_isa, needs_native

pytestmark = needs_native
RNG = np.random.default_rng(0)
BATCH, HEADS, QUERIES, KEYS, WIDTH = 6, 2, 5, 7, 8


def attention(between: Callable[[Graph], str]) -> tuple[Graph, Array]:
    """softmax(between(q kᵀ)) v, and the exact scores before `between`."""
    graph = Graph()
    q = RNG.standard_normal((BATCH, HEADS, QUERIES, WIDTH)).astype(np.float32)
    k, v = (RNG.standard_normal((BATCH, HEADS, KEYS, WIDTH)).astype(np.float32) for _ in range(2))
    names = [graph.input(name, array) for name, array in (("q", q), ("k", k), ("v", v))]
    graph.node("Transpose", [names[1]], "kt", perm=[0, 1, 3, 2])
    graph.node("Mul", ["q", graph.constant("f", np.float32(1 / math.sqrt(WIDTH)))], "qs")
    graph.node("MatMul", ["qs", "kt"], "scores")
    graph.node("Softmax", [between(graph)], "p", axis=-1)
    graph.node("MatMul", ["p", "v"], "y")
    return graph, q.astype(np.float64) @ np.swapaxes(k, 2, 3) / math.sqrt(WIDTH)


def check(graph: Graph, scores: Array, isa: str = "") -> None:
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = weights @ graph.inputs["v"]
    np.testing.assert_allclose(graph.run(["y"], isa)[0], expected, rtol=1e-4, atol=1e-5)


SHAPES = [
    (KEYS,), (QUERIES, KEYS), (HEADS, 1, KEYS), (1, HEADS, QUERIES, KEYS), (BATCH, 1, 1, KEYS),
    (BATCH, HEADS, QUERIES, KEYS), (QUERIES, 1), (BATCH, 1, 1, 1), (1,), (),
]  # fmt: skip


@each_isa
@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_mask_may_repeat_over_any_axis(isa: str, shape: tuple[int, ...], constant: bool) -> None:
    mask = np.asarray(RNG.standard_normal(shape), np.float32)
    put = Graph.constant if constant else Graph.input
    graph, scores = attention(lambda g: g.node("Add", ["scores", put(g, "m", mask)], "masked"))
    check(graph, scores + mask, isa)


@pytest.mark.parametrize("kinds", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("second", [(HEADS, 1, KEYS), (BATCH, 1, 1, KEYS)])
def test_two_masks(kinds: tuple[bool, bool], second: tuple[int, ...]) -> None:
    masks = [np.asarray(RNG.standard_normal(s), np.float32) for s in ((QUERIES, KEYS), second)]
    put = [Graph.constant if constant else Graph.input for constant in kinds]

    def between(graph: Graph) -> str:
        graph.node("Add", ["scores", put[0](graph, "m0", masks[0])], "once")
        return graph.node("Add", [put[1](graph, "m1", masks[1]), "once"], "twice")

    graph, scores = attention(between)
    check(graph, scores + masks[0] + masks[1])


@each_isa
@pytest.mark.parametrize("windows", [1, 2, 3, 6])
@pytest.mark.parametrize("constant", [True, False])
def test_masks_of_windows_repeat_for_each_image(isa: str, windows: int, constant: bool) -> None:
    """As in Swin: a bias for each head, and a mask for each window of an image."""
    bias = RNG.standard_normal((1, HEADS, QUERIES, KEYS)).astype(np.float32)
    mask = np.where(RNG.random((1, windows, 1, QUERIES, KEYS)) < 0.3, -100, 0).astype(np.float32)
    grouped = np.array([BATCH // windows, windows, HEADS, QUERIES, KEYS])
    put = Graph.constant if constant else Graph.input

    def between(graph: Graph) -> str:
        graph.node("Add", ["scores", graph.constant("bias", bias)], "biased")
        graph.node("Reshape", ["biased", graph.constant("split", grouped)], "windows")
        graph.node("Add", ["windows", put(graph, "mask", mask)], "masked")
        return graph.node(
            "Reshape", ["masked", graph.constant("join", np.array([-1, *grouped[2:]]))], "joined"
        )

    graph, scores = attention(between)
    expected = (scores + bias).reshape(grouped) + mask
    check(graph, expected.reshape(scores.shape), isa)


@pytest.mark.parametrize("number", [-np.inf, np.finfo(np.float32).min])
@pytest.mark.parametrize("swapped", [True, False])
@pytest.mark.parametrize("constant", [True, False])
def test_scores_may_be_replaced_by_what_forbids(
    number: float, swapped: bool, constant: bool
) -> None:
    """Where(mask, scores, -inf), as causal attention is written."""
    allowed = np.tri(QUERIES, KEYS, dtype=bool)
    put = Graph.constant if constant else Graph.input

    def between(graph: Graph) -> str:
        condition = put(graph, "allowed", ~allowed if swapped else allowed)
        pair = ["scores", graph.constant("number", np.float32(number))]
        return graph.node("Where", [condition, *(pair[::-1] if swapped else pair)], "w")

    graph, scores = attention(between)
    check(graph, np.where(allowed, scores, number))
