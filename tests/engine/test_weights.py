"""Weights on their way from a file to their packed form."""

import numpy as np
import pytest

from intact.core.native import native
from tests.engine.build import needs_native

pytestmark = needs_native

SHAPES = [(1, 1, 1, 1), (1, 64, 3, 49), (2, 130, 7, 9), (3, 1, 4, 6), (1, 65, 66, 1)]


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_weights_are_put_in_the_order_of_their_sums(
    shape: tuple[int, int, int, int],
) -> None:
    assert native is not None
    w = np.random.default_rng(0).integers(-128, 128, shape).astype(np.int8)
    found = native.reordered(w)
    expected = w.transpose(0, 3, 2, 1).reshape(shape[0], -1, shape[1])
    np.testing.assert_array_equal(found, expected, strict=True)
    sums = native.column_sums(found)
    np.testing.assert_array_equal(sums, w.sum(axis=(2, 3), dtype=np.int32).ravel(), strict=True)


def test_an_instruction_keeps_the_shape_of_its_weights_alone() -> None:
    from intact.engine.compile import Model
    from tests.engine.build import Graph, activation, weight

    graph, rng = Graph(), np.random.default_rng(0)
    x = graph.activation("x", *activation(rng, (2, 5)))
    graph.node("MatMul", [x, graph.weight("w", *weight(rng, (5, 3), 1))], "y")
    model = Model(graph.proto(["y"]), 1, lambda content: pytest.fail("no session is needed"))
    shapes = [i.parameters.get("weights") for i in model.executable(graph.inputs).instructions]
    assert shapes[-1] == (1, 5, 3)
