"""Composite functions are recognized by what they compute, however they are spelled."""

import numpy as np
import pytest

from tests.graph.equivalence import operators, prepared
from tests.graphs import Feeds, parse

RNG = np.random.default_rng(0)
X: Feeds = {"x": np.concatenate([np.linspace(-9, 9, 91), [-80, 80]]).astype(np.float32)[None]}


def constants(**values: float) -> dict[str, np.ndarray]:
    return {name: np.array(value, np.float32) for name, value in values.items()}


HALF = constants(one=1, half=0.5, root=2**0.5, inverse=0.5**0.5)
TANH = constants(one=1, half=0.5, c=(2 / np.pi) ** 0.5, k=0.044715, three=3)
HARD = constants(zero=0, one=1, three=3, six=6, sixth=1 / 6, half=0.5)


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ("a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (x, c) y = Mul (d, half)", HALF),
        ("a = Mul (x, inverse) b = Erf (a) c = Add (one, b) d = Mul (half, x) y = Mul (d, c)",
         HALF),
        ("a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (c, half) y = Mul (x, d)", HALF),
        # As it was written for TensorFlow: sqrt(2) with five digits.
        ("a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (x, c) y = Mul (d, half)",
         HALF | constants(root=1.41421)),
    ],
)  # fmt: skip
def test_gelu_by_erf(body: str, values: dict[str, np.ndarray]) -> None:
    model = parse(f"m (float[n,93] x) => (float[n,93] y) {{ {body} }}", **values)
    result = prepared(model, X)
    assert operators(result) == ["Gelu"]
    assert "approximate" not in result.graph[0].attributes


@pytest.mark.parametrize(
    "cube", ["p = Pow (x, three)", "s = Mul (x, x) p = Mul (s, x)", "s = Mul (x, x) p = Mul (x, s)"]
)
@pytest.mark.parametrize(
    "tail", ["d = Mul (half, x) y = Mul (d, c1)", "d = Mul (x, c1) y = Mul (d, half)"]
)
def test_gelu_by_tanh(cube: str, tail: str) -> None:
    model = parse(
        f"""m (float[n,93] x) => (float[n,93] y) {{
            {cube} q = Mul (p, k) i = Add (x, q) j = Mul (i, c) t = Tanh (j) c1 = Add (t, one)
            {tail}
        }}""",
        **TANH,
    )
    result = prepared(model, X)
    assert operators(result) == ["Gelu"]
    assert result.graph[0].attributes["approximate"].as_string() == "tanh"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Add (x, three) b = Clip (a, zero, six) c = Mul (x, b) y = Div (c, six)",
         ["HardSwish"]),
        ("a = Add (x, three) b = Max (a, zero) c = Min (b, six) d = Mul (c, sixth) y = Mul (d, x)",
         ["HardSwish"]),
        ("a = HardSigmoid <alpha=0.16666667, beta=0.5> (x) y = Mul (a, x)", ["HardSwish"]),
        ("a = Add (x, three) b = Clip (a, zero, six) y = Div (b, six)", ["HardSigmoid"]),
        ("a = Mul (x, sixth) b = Add (a, half) y = Clip (b, zero, one)", ["HardSigmoid"]),
        ("a = Softplus (x) b = Tanh (a) y = Mul (x, b)", ["Mish"]),
        ("a = Sigmoid (x) y = Mul (x, a)", ["Sigmoid", "Mul"]),
        ("a = Neg (x) b = Exp (a) c = Add (one, b) y = Div (x, c)", ["Sigmoid", "Mul"]),
        ("a = Neg (x) b = Exp (a) c = Add (one, b) y = Reciprocal (c)", ["Sigmoid"]),
    ],
)  # fmt: skip
def test_other_functions(body: str, expected: list[str]) -> None:
    model = parse(f"m (float[n,93] x) => (float[n,93] y) {{ {body} }}", **HARD)
    assert operators(prepared(model, X)) == expected


def test_hard_sigmoid_of_keras_has_its_own_slope() -> None:
    model = parse(
        """m (float[n,93] x) => (float[n,93] y) {
            a = Mul (x, fifth) b = Add (a, half) y = Clip (b, zero, one)
        }""",
        **HARD,
        **constants(fifth=0.2),
    )
    result = prepared(model, X)
    assert operators(result) == ["HardSigmoid"]
    assert result.graph[0].attributes["alpha"].as_float() == pytest.approx(0.2)


def test_a_function_that_is_cut_off_far_out_is_not_the_function() -> None:
    model = parse(
        """m (float[n,93] x) => (float[n,93] y) {
            a = Neg (x) b = Exp (a) c = Add (one, b) d = Div (x, c) y = Clip (d, low, high)
        }""",
        **HARD,
        **constants(low=-1, high=30),
    )
    assert operators(prepared(model, X)) == ["Sigmoid", "Mul", "Clip"]


def test_nearly_the_function_is_not_the_function() -> None:
    # The sigmoid form of GELU (CLIP's) is 0.02 off.
    model = parse(
        "m (float[n,93] x) => (float[n,93] y) { a = Mul (x, k) b = Sigmoid (a) y = Mul (x, b) }",
        **constants(k=1.702),
    )
    assert operators(prepared(model, X)) == ["Mul", "Sigmoid", "Mul"]


def test_inner_values_that_others_use_keep_their_producers() -> None:
    model = parse(
        """m (float[n,93] x) => (float[n,93] y, float[n,93] b) {
            a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (x, c) y = Mul (d, half)
        }""",
        **HALF,
    )
    assert "Gelu" not in operators(prepared(model, X))


def test_constants_of_higher_rank_are_not_forgotten() -> None:
    model = parse(
        """m (float[n,93] x) => (float[1,1,n,93] y) {
            a = Div (x, root) b = Erf (a) c = Add (b, one) d = Mul (x, c) y = Mul (d, half)
        }""",
        **(HALF | {"root": np.full((1, 1, 1, 1), 2**0.5, np.float32)}),
    )
    assert "Gelu" not in operators(prepared(model, X))


@pytest.mark.parametrize("epsilon", [1e-5, 1e-12, 0.0])
@pytest.mark.parametrize(
    ("square", "tail"),
    [
        ("q = Pow (d, two)", "r = Sqrt (e) n = Div (d, r) s = Mul (n, g) y = Add (s, b)"),
        ("q = Mul (d, d)", "r = Pow (e, half) n = Div (d, r) s = Mul (g, n) y = Add (b, s)"),
        # As in DTLN: the scale goes into the factor, the mean into the shift.
        ("q = Mul (d, d)",
         "r = Sqrt (e) i = Reciprocal (r) f = Mul (i, g) s = Mul (x, f) o = Mul (u, f) "
         "h = Sub (b, o) y = Add (s, h)"),
    ],
)  # fmt: skip
def test_layer_normalization(square: str, tail: str, epsilon: float) -> None:
    scale = (1 + 1e-3 * RNG.normal(size=64)).astype(np.float32)
    bias = RNG.normal(size=64).astype(np.float32)
    model = parse(
        f"""m (float[n,s,64] x) => (float[n,s,64] y) {{
            u = ReduceMean (x, last) d = Sub (x, u) {square} v = ReduceMean (q, last)
            e = Add (v, epsilon) {tail}
        }}""",
        last=np.array([-1]),
        g=scale,
        b=bias,
        **constants(epsilon=epsilon, two=2, half=0.5),
    )
    x: Feeds = {"x": RNG.normal(size=(2, 3, 64)).astype(np.float32)}
    result = prepared(model, x)
    assert operators(result) == ["LayerNormalization"]
    node = result.graph[0]
    assert node.attributes["epsilon"].as_float() == np.float32(epsilon)
    np.testing.assert_allclose(node.inputs[1].const_value.numpy(), scale, rtol=1e-6)
    np.testing.assert_allclose(node.inputs[2].const_value.numpy(), bias, rtol=1e-6, atol=1e-7)


def test_epsilon_survives_where_nothing_is_recognized() -> None:
    """Constant rows divide by the root of epsilon, however small that is."""
    model = parse(
        """m (float[n,4] x) => (float[n,4] y) {
            u = ReduceMean (x, last) d = Sub (x, u) a = Abs (d) v = ReduceMax (a, last)
            e = Add (v, epsilon) y = Div (d, e)
        }""",
        last=np.array([-1]),
        **constants(epsilon=1e-12),
    )
    prepared(model, {"x": np.ones((2, 4), np.float32)})


def test_division_by_deviation_plus_epsilon_is_not_layer_normalization() -> None:
    model = parse(
        """m (float[n,64] x) => (float[n,64] y) {
            u = ReduceMean (x, last) d = Sub (x, u) q = Mul (d, d) v = ReduceMean (q, last)
            r = Sqrt (v) e = Add (r, epsilon) y = Div (d, e)
        }""",
        last=np.array([-1]),
        **constants(epsilon=0.01),
    )
    x: Feeds = {"x": RNG.normal(size=(3, 64)).astype(np.float32)}
    assert "LayerNormalization" not in operators(prepared(model, x))
