"""Where graphs are quantized: each test states one rule of `intact.graph.walk`."""

import numpy as np
import pytest

from intact.graph.walk import is_gate, is_weighted, kind, known_range, sites
from tests.graphs import parse

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4, 3, 3)).astype(np.float32)
M = RNG.normal(size=(4, 4)).astype(np.float32)

RESIDUAL = """
residual (float[n,4,8,8] x) => (float[n,4,8,8] y) {
    a = Conv <pads=[1,1,1,1]> (x, w1)
    b = Relu (a)
    c = Conv <pads=[1,1,1,1]> (b, w2)
    d = Add (c, b)
    e = Relu (d)
    f = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> (e)
    y = Conv <pads=[1,1,1,1]> (f, w3)
}"""


def test_chain_of_convolutions_stays_integer_and_relu_is_fused() -> None:
    graph = parse(RESIDUAL, w1=W, w2=W, w3=W).graph
    where = sites(graph, {"a", "c", "y"})
    assert where.quantized == ("x", "b", "c", "e", "f")
    assert where.produced == {"b", "c", "e", "f"}
    assert where.operators["a"] == ("x",)
    assert where.operators["d"] == ("b", "c") or where.operators["d"] == ("c", "b")


def test_the_network_output_is_never_quantized() -> None:
    where = sites(parse(RESIDUAL, w1=W, w2=W, w3=W).graph, {"a", "c", "y"})
    assert "y" not in where.quantized


def test_view_shares_parameters_and_only_its_reader_is_observed() -> None:
    where = sites(parse(RESIDUAL, w1=W, w2=W, w3=W).graph, {"a", "c", "y"})
    assert where.ties["f"] == where.ties["e"] == "e"
    assert "f" in where.observed and "e" not in where.observed


def test_a_chain_that_ends_in_float_is_not_quantized() -> None:
    where = sites(parse(RESIDUAL, w1=W, w2=W, w3=W).graph, {"a", "c"})
    assert where.quantized == ("x", "b")


def test_matrix_products_give_float_and_leave_the_residual_alone() -> None:
    graph = parse(
        """block (float[n,4] x) => (float[n,4] y) {
            a = MatMul (x, w1)
            b = Add (a, x)
            c = MatMul (b, w2)
            y = Add (c, b)
        }""",
        w1=M,
        w2=M,
    ).graph
    where = sites(graph, {"a", "c"})
    assert where.quantized == ("x", "b")
    assert where.produced == frozenset()


def test_silu_is_one_island() -> None:
    graph = parse(
        """silu (float[n,4,8,8] x) => (float[n,4,6,6] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1)
            s = Sigmoid (a)
            m = Mul (a, s)
            y = Conv (m, w2)
        }""",
        w1=W,
        w2=W,
    ).graph
    assert sites(graph, {"a", "y"}).quantized == ("x", "a", "m")


def test_gate_is_quantized_beside_an_integer_value() -> None:
    graph = parse(
        """gated (float[n,4,8,8] x) => (float[n,4,4,4] y) {
            a = Conv (x, w1)
            g = GlobalAveragePool (a)
            c = Conv (g, w3)
            s = Sigmoid (c)
            m = Mul (a, s)
            y = Conv (m, w2)
        }""",
        w1=W,
        w2=W,
        w3=M[:, :, None, None],
    ).graph
    where = sites(graph, {"a", "y"})
    assert where.quantized == ("x", "a", "s", "m")
    assert where.produced == {"a", "m"}
    assert is_gate(graph[2]) and not is_gate(graph[0])


def test_excluded_operator_breaks_the_chain() -> None:
    graph = parse(RESIDUAL, w1=W, w2=W, w3=W).graph
    where = sites(graph, {"a", "c", "y"}, excluded={"d"})
    assert "c" not in where.quantized
    assert "f" in where.quantized and "f" not in where.produced


@pytest.mark.parametrize(
    ("pad", "expected"), [(np.float32(0), "view"), (np.float32(1), "arithmetic")]
)
def test_only_a_pad_with_zero_is_a_view(pad: np.float32, expected: str) -> None:
    graph = parse(
        "p (float[2,4] x) => (float[2,6] y) { y = Pad (x, pads, value) }",
        pads=np.array([0, 0, 0, 2]),
        value=np.array(pad),
    ).graph
    assert kind(graph[0]) == expected


def test_product_of_activations_and_scaled_gemm_have_no_weight() -> None:
    graph = parse(
        """g (float[4,4] x) => (float[4,4] y, float[4,4] z) {
            y = MatMul (x, x)
            z = Gemm <alpha=0.5> (x, w)
        }""",
        w=M,
    ).graph
    assert [is_weighted(node) for node in graph] == [False, False]


def test_known_range_is_found_through_views_and_the_guard_of_softmax() -> None:
    graph = parse(
        """s (float[2,4] x) => (float[4,2] y) {
            p = Softmax (x)
            n = IsNaN (p)
            g = Where (n, zero, p)
            y = Transpose (g)
        }""",
        zero=np.float32(0).reshape(()),
    ).graph
    assert known_range(graph.outputs[0]) == (0.0, 1.0)
    assert known_range(graph.inputs[0]) is None
