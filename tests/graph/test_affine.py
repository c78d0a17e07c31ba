"""Batch normalization and its like become part of the weights before them."""

import numpy as np
import pytest

from tests.graph.equivalence import operators, prepared
from tests.graphs import Feeds, parse

RNG = np.random.default_rng(0)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


W = normal(4, 4, 3, 3)
IMAGE: Feeds = {"x": normal(2, 4, 9, 9)}
ROWS: Feeds = {"x": normal(3, 5)}


def statistics(channels: int, suffix: str = "") -> dict[str, np.ndarray]:
    """Parameters g, b, m, v of a batch normalization."""
    return {
        f"g{suffix}": normal(channels) + 1,
        f"b{suffix}": normal(channels),
        f"m{suffix}": normal(channels),
        f"v{suffix}": np.abs(normal(channels)) + np.float32(0.1),
    }


@pytest.mark.parametrize("inputs", ["x, w", "x, w, o", "x, w, "])
def test_batch_norm_folds_into_convolution_which_keeps_its_name(inputs: str) -> None:
    model = parse(
        f"""m (float[n,4,9,9] x) => (float[n,4,7,7] y) {{
            a = Conv ({inputs})
            y = BatchNormalization <epsilon=0.01> (a, g, b, m, v)
        }}""",
        w=W,
        o=normal(4),
        **statistics(4),
    )
    model.graph[0].name = "stem.conv"
    model.graph[0].metadata_props["intact.module"] = "stem.conv"
    model.graph[1].metadata_props["intact.module"] = "stem.norm"
    result = prepared(model, IMAGE)
    assert operators(result) == ["Conv"]
    assert result.graph[0].name == "stem.conv"
    assert result.graph[0].metadata_props == {"intact.module": "stem.conv"}


@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_folds_into_transposed_convolution(group: int) -> None:
    model = parse(
        f"""m (float[n,4,9,9] x) => (float[n,6,19,19] y) {{
            a = ConvTranspose <group={group}, strides=[2,2]> (x, w, o)
            y = BatchNormalization (a, g, b, m, v)
        }}""",
        w=normal(4, 6 // group, 3, 3),
        o=normal(6),
        **statistics(6),
    )
    assert operators(prepared(model, IMAGE)) == ["ConvTranspose"]


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm_takes_its_factors_and_batch_norm_into_its_weight(transposed: int) -> None:
    w = normal(5, 4)
    model = parse(
        f"""m (float[n,5] x) => (float[n,4] y) {{
            a = Gemm <alpha=0.5, beta=2.0, transB={transposed}> (x, w, o)
            y = BatchNormalization (a, g, b, m, v)
        }}""",
        w=w.T.copy() if transposed else w,
        o=normal(4),
        **statistics(4),
    )
    result = prepared(model, ROWS)
    assert operators(result) == ["Gemm"]
    assert not {"alpha", "beta"} & set(result.graph[0].attributes)


def test_gemm_with_a_bias_for_each_row_stays() -> None:
    model = parse(
        "m (float[3,5] x) => (float[3,4] y) { a = Gemm (x, w, o) y = Mul (a, s) }",
        w=normal(5, 4),
        o=normal(3, 4),
        s=normal(4),
    )
    assert operators(prepared(model, ROWS)) == ["Gemm", "Mul"]


@pytest.mark.parametrize(
    "body",
    [
        "c = Mul (a, s) y = Add (t, c)",
        "c = Sub (s, a) y = Div (c, t)",
        "c = Sub (a, s) d = Div (c, t) e = Mul (t, d) y = Add (e, s)",
        "c = Mul (a, k) y = Add (c, k)",
    ],
)
def test_scales_and_shifts_per_channel_fold(body: str) -> None:
    model = parse(
        f"m (float[n,4,9,9] x) => (float[n,4,7,7] y) {{ a = Conv (x, w) {body} }}",
        w=W,
        s=normal(4, 1, 1),
        t=normal(1, 4, 1, 1),
        k=normal().reshape(()),
    )
    assert operators(prepared(model, IMAGE)) == ["Conv"]


@pytest.mark.parametrize(
    ("text", "s"),
    [
        ("m (float[n,4,9,9] x) => (float[n,4,7,7] y) { a = Conv (x, w) y = Mul (a, s) }", (7,)),
        ("m (float[n,4,9,9] x) => (float[1,n,4,7,7] y) { a = Conv (x, w) y = Mul (a, s) }",
         (1, 1, 4, 1, 1)),
        ("m (float[n,4,9,9] x) => (float[n,4,7,7] y) { a = Conv (x, w) y = Div (s, a) }",
         (4, 1, 1)),
        ("m (float[n,4,9,9] x) => (float[n,4,7,7] y) { a = Conv (x, w) y = Mul (a, a) }", (1,)),
    ],
)  # fmt: skip
def test_what_is_not_affine_per_channel_stays(text: str, s: tuple[int, ...]) -> None:
    result = prepared(parse(text, w=W, s=normal(*s)), IMAGE)
    assert len(result.graph) == 2


def test_shared_weights_are_folded_apart() -> None:
    model = parse(
        """m (float[n,4,9,9] x) => (float[n,4,7,7] y, float[n,4,5,5] z) {
            a = Conv (x, w)
            y = BatchNormalization (a, g, b, m, v)
            c = Conv (y, w)
            z = BatchNormalization (c, g2, b2, m2, v2)
        }""",
        w=W,
        **statistics(4),
        **statistics(4, "2"),
    )
    result = prepared(model, IMAGE)
    assert operators(result) == ["Conv", "Conv"]
    assert result.graph[0].inputs[1] is not result.graph[1].inputs[1]


def test_an_output_that_others_use_is_not_folded() -> None:
    model = parse(
        """m (float[n,4,9,9] x) => (float[n,4,7,7] y, float[n,4,7,7] a) {
            a = Conv (x, w)
            y = BatchNormalization (a, g, b, m, v)
        }""",
        w=W,
        **statistics(4),
    )
    assert operators(prepared(model, IMAGE)) == ["Conv", "BatchNormalization"]


def test_batch_norm_that_trains_is_not_folded() -> None:
    model = parse(
        """m (float[n,4,9,9] x) => (float[n,4,7,7] y) {
            a = Conv (x, w)
            y, mean, variance = BatchNormalization <training_mode=1> (a, g, b, m, v)
        }""",
        w=W,
        **statistics(4),
    )
    assert operators(prepared(model, IMAGE)) == ["Conv", "BatchNormalization"]
