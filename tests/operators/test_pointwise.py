"""Operators that work value by value agree with ONNX Runtime to one least significant bit."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runtime import (
    Quantized,
    activation,
    assert_close,
    assert_within_one,
    output,
    qparams,
    quick,
    run_both,
)

from intact.core import arithmetic
from intact.core.arithmetic import FUNCTIONS
from intact.core.qparams import BOUNDS, asymmetric, dequantize

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["uint8", "int8"])
shapes = st.sampled_from(
    [((3, 7), (3, 7)), ((2, 3, 4, 5), (1, 3, 1, 1)), ((5,), (4, 5)), ((2, 3, 4), ())]
)


@pytest.mark.parametrize(
    ("op_type", "function"),
    [("Add", arithmetic.add), ("Sub", arithmetic.sub), ("Mul", arithmetic.mul)],
)
@quick
@given(seed=seeds, shape=shapes, dtype=dtypes)
def test_arithmetic(op_type: str, function: Any, seed: int, shape: Any, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    a, b = activation(rng, shape[0], dtype), activation(rng, shape[1], dtype)
    real = function(a.q, a.qparams, b.q, b.qparams)
    assert_close(real, run_both(op_type, [a, b], None))
    y = output(real, dtype)
    assert_within_one(function(a.q, a.qparams, b.q, b.qparams, y), run_both(op_type, [a, b], y))


@quick
@given(seeds, shapes, dtypes)
def test_div(seed: int, shape: Any, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    a, b = activation(rng, shape[0], dtype), activation(rng, shape[1], dtype)
    away_from_zero = np.where(b.q == b.qparams.zero_point, b.q ^ 1, b.q)
    b = b._replace(q=away_from_zero.astype(dtype))
    real = arithmetic.div(a.q, a.qparams, b.q, b.qparams)
    assert_close(real, run_both("Div", [a, b], None))
    y = output(real, dtype)
    ours = arithmetic.div(a.q, a.qparams, b.q, b.qparams, y)
    assert_within_one(ours, run_both("Div", [a, b], y))


@quick
@given(seeds, dtypes)
def test_prelu(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x = activation(rng, (2, 3, 4), dtype)
    slope = Quantized(
        rng.integers(-128, 128, (3, 1)).astype(np.int8), qparams(0.01, 0, "int8"), True
    )
    slopes = dequantize(slope.q, slope.qparams)
    y = output(arithmetic.prelu(x.q, x.qparams, slopes), dtype)
    ours = arithmetic.prelu(x.q, x.qparams, slopes, y)
    assert_within_one(ours, run_both("PRelu", [x, slope], y))


@quick
@given(seeds, dtypes)
def test_batch_normalization(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    x = activation(rng, (2, 3, 4, 5), dtype)
    parameters = [
        Quantized(rng.integers(low, 128, 3).astype(np.int8), qparams(0.02, 0, "int8"), True)
        for low in (-128, -128, -128, 1)
    ]
    reals = [dequantize(part.q, part.qparams) for part in parameters]
    real = arithmetic.batch_normalization(x.q, x.qparams, *reals)
    assert_close(real, run_both("BatchNormalization", [x, *parameters], None))
    y = output(real, dtype)
    ours = arithmetic.batch_normalization(x.q, x.qparams, *reals, y)
    assert_within_one(ours, run_both("BatchNormalization", [x, *parameters], y))


@quick
@given(seeds, st.integers(0, 2), st.integers(1, 4), dtypes)
def test_concat(seed: int, axis: int, count: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(count):
        shape = [2, 3, 4]
        shape[axis] = int(rng.integers(1, 5))
        parts.append(activation(rng, shape, dtype))
    y = output(np.concatenate([dequantize(p.q, p.qparams).ravel() for p in parts]), dtype)
    ours = arithmetic.concat([(p.q, p.qparams) for p in parts], axis, y)
    assert_within_one(ours, run_both("Concat", parts, y, {"axis": axis}))


@given(dtypes, st.floats(2.0**-126, 2.0**100, width=32), st.integers(0, 255))
@quick
def test_requantizing_to_the_same_parameters_changes_nothing(
    dtype: Any, scale: float, point: int
) -> None:
    low, high = BOUNDS[dtype]
    same = qparams(scale, low + point, dtype)
    every = np.arange(low, high + 1).astype(dtype)
    np.testing.assert_array_equal(arithmetic.requantize(every, same, same), every)


# The ONNX operator with its attributes, beside the function that is put in a table.
UNARY: list[tuple[str, dict[str, Any], Any]] = [
    ("Relu", {}, FUNCTIONS["Relu"]),
    ("LeakyRelu", {"alpha": 0.1}, partial(FUNCTIONS["LeakyRelu"], alpha=0.1)),
    ("LeakyRelu", {}, FUNCTIONS["LeakyRelu"]),
    ("Elu", {"alpha": 0.7}, partial(FUNCTIONS["Elu"], alpha=0.7)),
    ("Sigmoid", {}, FUNCTIONS["Sigmoid"]),
    ("HardSigmoid", {}, FUNCTIONS["HardSigmoid"]),
    (
        "HardSigmoid",
        {"alpha": 1 / 6, "beta": 0.5},
        partial(FUNCTIONS["HardSigmoid"], alpha=1 / 6, beta=0.5),
    ),
    ("HardSwish", {}, FUNCTIONS["HardSwish"]),
    ("Tanh", {}, FUNCTIONS["Tanh"]),
    ("Gelu", {}, FUNCTIONS["Gelu"]),
    ("Gelu", {"approximate": "tanh"}, FUNCTIONS["GeluTanh"]),
    ("Mish", {}, FUNCTIONS["Mish"]),
    ("Softplus", {}, FUNCTIONS["Softplus"]),
]


@pytest.mark.parametrize(("op_type", "attributes", "function"), UNARY)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("reach", [0.01, 4.0, 300.0])
def test_table_of_every_integer(
    op_type: str, attributes: dict[str, Any], function: Any, dtype: Any, reach: float
) -> None:
    low, high = BOUNDS[dtype]
    every = np.arange(low, high + 1).astype(dtype)
    x = Quantized(every, asymmetric(-reach, 0.8 * reach, dtype))
    y = output(function(dequantize(every, x.qparams).astype(np.float64)), dtype)
    table = arithmetic.table(function, x.qparams, y)
    assert table.shape == (256,)
    ours = arithmetic.lookup(every, table)
    np.testing.assert_array_equal(ours, table)
    assert_within_one(ours, run_both(op_type, [x], y, attributes))


@pytest.mark.parametrize("bounds", [(0.0, 6.0), (-1.0, 1.0), (0.5, 2.0)])
def test_table_of_clip(bounds: tuple[float, float]) -> None:
    every = np.arange(256).astype(np.uint8)
    x = Quantized(every, asymmetric(-7, 9))
    y = asymmetric(*bounds)
    low, high = (
        Quantized(np.asarray(round(bound * 8), np.int8), qparams(0.125, 0, "int8"), True)
        for bound in bounds
    )
    function = partial(FUNCTIONS["Clip"], low=bounds[0], high=bounds[1])
    ours = arithmetic.lookup(every, arithmetic.table(function, x.qparams, y))
    assert_within_one(ours, run_both("Clip", [x, low, high], y))


def test_swish_is_x_times_sigmoid() -> None:
    # ONNX has Swish from opset 24 only, so the definition is the oracle.
    every = np.arange(-128, 128).astype(np.int8)
    x, y = asymmetric(-6, 6, "int8"), asymmetric(-0.3, 6, "int8")
    real = dequantize(every, x).astype(np.float64)
    expected = np.rint(real / (1 + np.exp(-real)) / y.scale) + y.zero_point
    ours = arithmetic.lookup(every, arithmetic.table(FUNCTIONS["Swish"], x, y))
    assert np.abs(ours - np.clip(expected, -128, 127)).max() <= 1


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_functions_are_finite_without_warnings_on_huge_values(name: str) -> None:
    extremes = np.array([-1e6, -1e3, -80.0, -0.0, 0.0, 80.0, 1e3, 1e6])
    with np.errstate(all="raise", under="ignore"):
        assert np.isfinite(FUNCTIONS[name](extremes)).all()
