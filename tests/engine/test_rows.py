"""Rows that are seen in another order than they lie in: the same numbers, and no copies."""

from typing import Any

import numpy as np
import pytest

from intact.engine import memory
from tests.engine.build import (
    Graph,
    activation,
    assert_same,
    dynamic_call,
    each_isa,
    needs_native,
    qparams,
    weight,
)

pytestmark = needs_native
BATCH, LENGTH, WIDTH, COLUMNS = 3, 7, 20, 48


def product(graph: Graph, x: str, rng: np.random.Generator, dynamic: bool, name: str) -> str:
    """x times weights plus a bias of floats."""
    k = WIDTH if name == "first" else COLUMNS
    n = COLUMNS if name == "first" else WIDTH
    q, parameters = weight(rng, (k, n), 1)
    if dynamic:
        y = dynamic_call(graph, "DynamicMatMul", x, q, parameters.scale, f"{name}_product")
    else:
        x_q = graph.quantized(x, qparams(0.05, 120))
        y = graph.node("MatMul", [x_q, graph.weight(f"{name}_w", q, parameters)], f"{name}_product")
    numbers = rng.standard_normal(n).astype(np.float32)
    return graph.node("Add", [graph.constant(f"{name}_b", numbers), y][::-1], f"{name}_sum")


def programs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    seen: list[Any] = []
    monkeypatch.setattr(
        "intact.engine.compile.place",
        lambda program, outputs: seen.append(program) or memory.place(program, outputs),
    )
    return seen


@each_isa
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("function", ["", "Gelu", "Relu"])
@pytest.mark.parametrize("merged", [False, True])
def test_what_transposes_and_transposes_back_copies_nothing(
    monkeypatch: pytest.MonkeyPatch, isa: str, dynamic: bool, function: str, merged: bool
) -> None:
    x = np.random.default_rng(1).standard_normal((BATCH, LENGTH, WIDTH)).astype(np.float32)
    seen, found = programs(monkeypatch), []
    for turned in (True, False):
        rng = np.random.default_rng(0)
        graph = Graph()
        name = graph.node("Tanh", [graph.input("x", x)], "t")
        if turned:
            name = graph.node("Transpose", [name], "turned", perm=[1, 0, 2])
        if merged:
            rows = graph.constant("rows", np.array([-1, WIDTH]))
            name = graph.node("Reshape", [name, rows], "merged")
        name = product(graph, name, rng, dynamic, "first")
        if function:
            name = graph.node(function, [name], "f")
        name = product(graph, name, rng, dynamic, "second")
        if merged:
            shape = (LENGTH, BATCH, WIDTH) if turned else (BATCH, LENGTH, WIDTH)
            name = graph.node("Reshape", [name, graph.constant("shape", np.array(shape))], "apart")
        if turned:
            name = graph.node("Transpose", [name], "back", perm=[1, 0, 2])
        graph.node("Add", [name, "t"], "y")
        found.append(graph.run(["y"], isa)[0])
    assert_same(*found)
    assert [i.kind for i in seen[0]] == [i.kind for i in seen[1]]
    assert not any(i.kind in ("move", "binary") for i in seen[0])


@each_isa
@pytest.mark.parametrize("dynamic", [False, True])
def test_attention_of_transposed_sequences(
    monkeypatch: pytest.MonkeyPatch, isa: str, dynamic: bool
) -> None:
    """As PyTorch's MultiheadAttention: sequence first, heads merged with the batch."""
    heads, width = 4, COLUMNS // 12
    x = np.random.default_rng(1).standard_normal((BATCH, LENGTH, WIDTH)).astype(np.float32)

    def run(x: Any) -> Any:
        rng = np.random.default_rng(0)
        graph = Graph()
        n = x.shape[0]
        graph.node("Tanh", [graph.input("x", x)], "t")
        graph.node("Transpose", ["t"], "turned", perm=[1, 0, 2])
        product(graph, "turned", rng, dynamic, "first")
        graph.many("Split", ["first_sum"], ["q", "k", "v"], axis=2, num_outputs=3)
        for i in "qkv":
            together = graph.constant(f"{i}_to", np.array([LENGTH, n * heads, width]))
            graph.node("Reshape", [i, together], f"{i}1")
            graph.node("Transpose", [f"{i}1"], f"{i}2", perm=[1, 0, 2])
            apart = graph.constant(f"{i}_apart", np.array([n, heads, LENGTH, width]))
            graph.node("Reshape", [f"{i}2", apart], f"{i}3")
        graph.node("Transpose", ["k3"], "kt", perm=[0, 1, 3, 2])
        graph.node("Softmax", [graph.node("MatMul", ["q3", "kt"], "scores")], "p", axis=-1)
        graph.node("Transpose", [graph.node("MatMul", ["p", "v3"], "a")], "ta", perm=[2, 0, 1, 3])
        rows = graph.constant("rows", np.array([LENGTH * n, heads * width]))
        graph.node("Reshape", ["ta", rows], "y")
        return graph.run(["y"], isa)[0].reshape(LENGTH, n, heads * width)

    seen = programs(monkeypatch)
    whole = run(x)
    assert sum(i.kind == "move" for i in seen[0]) <= 1  # into the order of the output
    for i in range(BATCH):
        assert_same(whole[:, i], run(x[i : i + 1])[:, 0])


@each_isa
@pytest.mark.parametrize("part", [slice(0, 3), slice(2, 7)])
def test_a_part_of_rows_is_copied_in_the_order_in_which_it_is_seen(isa: str, part: slice) -> None:
    rng = np.random.default_rng(0)
    x_q, x = activation(rng, (BATCH, LENGTH, WIDTH))
    w_q, w = weight(rng, (WIDTH, COLUMNS), 1)
    results = []
    for turned in (True, False):
        graph = Graph()
        name = graph.activation("x", x_q, x)
        ends = [graph.constant(k, np.array([v])) for k, v in
                (("s", part.start), ("e", part.stop), ("axis", 1))]  # fmt: skip
        name = graph.node("Slice", [name, *ends], "cut")
        if turned:
            name = graph.node("Transpose", [name], "turned", perm=[1, 0, 2])
        name = graph.node("MatMul", [name, graph.weight("w", w_q, w)], "product")
        if turned:
            name = graph.node("Transpose", [name], "back", perm=[1, 0, 2])
        graph.node("Tanh", [name], "y")
        results.append(graph.run(["y"], isa)[0])
    assert_same(*results)
