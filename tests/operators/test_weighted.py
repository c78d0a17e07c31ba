"""Convolutions and matrix products agree with ONNX Runtime's QDQ form to one integer step."""

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
    bias,
    kernels,
    output,
    qparams,
    quick,
    run_both,
    weight,
)

from intact.core import arithmetic
from intact.core.errors import PlanError
from intact.core.qparams import BOUNDS, QParams, dequantize

seeds = st.integers(0, 2**32 - 1)
weight_dtypes = st.sampled_from(["int8", "uint8"])


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(1, 3))

    def each(low: int, high: int, count: int = n) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=count, max_size=count))

    return {
        "spatial": each(5, 9 if n < 3 else 6),
        "kernel": each(1, 3 if n < 3 else 2),
        "strides": each(1, 3),
        "dilations": each(1, 2),
        "pads": each(0, 2, 2 * n),
        "group": draw(st.sampled_from([1, 2, 3])),
        "inputs": draw(st.integers(1, 3)),
        "outputs": draw(st.integers(1, 3)),
    }


@quick
@given(seeds, geometries(), weight_dtypes, st.sampled_from(["uint8", "int8"]), st.booleans())
def test_conv(seed: int, g: dict[str, Any], w_dtype: Any, y_dtype: Any, per_channel: bool) -> None:
    rng = np.random.default_rng(seed)
    group, out = g["group"], g["group"] * g["outputs"]
    x = activation(rng, (2, group * g["inputs"], *g["spatial"]))
    w = weight(rng, (out, g["inputs"], *g["kernel"]), 0 if per_channel else None, w_dtype)
    b = bias(rng, x, w, out)
    attributes = {name: g[name] for name in ("strides", "pads", "dilations", "group")}
    operands = (x.q, x.qparams, w.q, w.qparams, b.q)

    real = arithmetic.conv(*operands, **attributes)
    assert_close(real, run_both("Conv", [x, w, b], None, attributes))
    y = output(real, y_dtype)
    ours = arithmetic.conv(*operands, y, **attributes)
    assert_within_one(ours, run_both("Conv", [x, w, b], y, attributes))


@quick
@given(seeds, geometries(), weight_dtypes, st.booleans(), st.booleans())
def test_conv_transpose(
    seed: int, g: dict[str, Any], w_dtype: Any, per_channel: bool, extended: bool
) -> None:
    rng = np.random.default_rng(seed)
    group, out = g["group"], g["group"] * g["outputs"]
    x = activation(rng, (2, group * g["inputs"], *g["spatial"]))
    axis = 1 if per_channel else None
    w = weight(rng, (group * g["inputs"], g["outputs"], *g["kernel"]), axis, w_dtype)
    b = bias(rng, x, w, out)
    attributes = {name: g[name] for name in ("strides", "dilations", "group")}
    attributes["pads"] = [min(pad, 1) for pad in g["pads"]]
    attributes["output_padding"] = [min(int(extended), s - 1) for s in g["strides"]]
    operands = (x.q, x.qparams, w.q, w.qparams, b.q)

    real = arithmetic.conv_transpose(*operands, **attributes)
    assert_close(real, run_both("ConvTranspose", [x, w, b], None, attributes))
    y = output(real)
    ours = arithmetic.conv_transpose(*operands, y, **attributes)
    assert_within_one(ours, run_both("ConvTranspose", [x, w, b], y, attributes))


def test_conv_transpose_scales_belong_to_each_groups_channels() -> None:
    rng = np.random.default_rng(0)
    x, w = activation(rng, (1, 4, 5, 5)), weight(rng, (4, 3, 2, 2), 1)
    whole = arithmetic.conv_transpose(x.q, x.qparams, w.q, w.qparams, group=2)
    halves = [
        arithmetic.conv_transpose(x.q[:, part], x.qparams, w.q[part], w.qparams)
        for part in (slice(0, 2), slice(2, 4))
    ]
    np.testing.assert_array_equal(whole, np.concatenate(halves, axis=1))


@quick
@given(
    seeds,
    st.lists(st.integers(1, 3), max_size=2),
    st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 20)),
    weight_dtypes,
    st.booleans(),
)
def test_matmul_with_weight(
    seed: int, batch: list[int], sizes: tuple[int, int, int], w_dtype: Any, per_column: bool
) -> None:
    rng = np.random.default_rng(seed)
    m, k, n = sizes
    x, w = activation(rng, (*batch, m, k)), weight(rng, (k, n), 1 if per_column else None, w_dtype)
    operands = (x.q, x.qparams, w.q, w.qparams)

    real = arithmetic.matmul(*operands)
    assert_close(real, run_both("MatMul", [x, w], None))
    y = output(real)
    assert_within_one(arithmetic.matmul(*operands, y=y), run_both("MatMul", [x, w], y))


@quick
@given(
    seeds,
    st.sampled_from([((4, 6), (6, 5)), ((2, 3, 4, 6), (2, 3, 6, 5)), ((2, 1, 4, 6), (3, 6, 5))]),
    st.sampled_from(["uint8", "int8"]),
)
def test_matmul_of_activations(seed: int, shapes: Any, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    a, b = activation(rng, shapes[0], dtype), activation(rng, shapes[1], dtype)
    operands = (a.q, a.qparams, b.q, b.qparams)

    # Two int8 activations are not exact everywhere either; only the float form is compared then.
    results = run_both("MatMul", [a, b._replace(constant=dtype == "int8")], None)
    real = arithmetic.matmul(*operands)
    assert_close(real, results)
    y = output(real, dtype)
    results = run_both("MatMul", [a, b._replace(constant=dtype == "int8")], y)
    assert_within_one(arithmetic.matmul(*operands, y=y), results)


@quick
@given(
    seeds,
    st.tuples(st.integers(1, 5), st.integers(1, 70), st.integers(1, 20)),
    weight_dtypes,
    st.booleans(),
    st.booleans(),
)
def test_gemm(
    seed: int, sizes: tuple[int, int, int], w_dtype: Any, per_channel: bool, trans_b: bool
) -> None:
    rng = np.random.default_rng(seed)
    m, k, n = sizes
    x = activation(rng, (m, k))
    axis = (0 if trans_b else 1) if per_channel else None
    w = weight(rng, (n, k) if trans_b else (k, n), axis, w_dtype)
    b = bias(rng, x, w, n)
    operands = (x.q, x.qparams, w.q, w.qparams, b.q)

    real = arithmetic.gemm(*operands, trans_b=trans_b)
    assert_close(real, run_both("Gemm", [x, w, b], None, {"transB": int(trans_b)}))
    y = output(real)
    ours = arithmetic.gemm(*operands, y, trans_b=trans_b)
    assert_within_one(ours, run_both("Gemm", [x, w, b], y, {"transB": int(trans_b)}))


@pytest.mark.parametrize("w_dtype", ["int8", "uint8"])
@pytest.mark.parametrize("sign", [-127, 127])
@pytest.mark.parametrize("k", [1, 3, 64, 1000, 4096])
def test_extreme_values_in_every_product(w_dtype: Any, sign: int, k: int) -> None:
    middle = 128 if w_dtype == "uint8" else 0
    x = Quantized(np.full((2, k), 255, np.uint8), qparams(0.02, 0))
    w = Quantized(
        np.full((k, 3), sign + middle, w_dtype),
        qparams([0.01, 0.02, 0.003], middle, w_dtype, 1),
        True,
    )
    y = qparams(0.02 * 0.02 * 255 * 127 * k / 250, 255 if sign < 0 else 0)
    ours = arithmetic.matmul(x.q, x.qparams, w.q, w.qparams, y=y)
    assert abs(int(ours[0, 1]) - int(y.zero_point)) == 250
    assert_within_one(ours, run_both("MatMul", [x, w], y))

    images = Quantized(x.q.reshape(2, k, 1, 1), x.qparams)
    kernel = Quantized(
        w.q.T.reshape(3, k, 1, 1), qparams(w.qparams.scale, middle, w_dtype, 0), True
    )
    ours = arithmetic.conv(images.q, images.qparams, kernel.q, kernel.qparams, y=y)
    assert_within_one(ours, run_both("Conv", [images, kernel], y))


@pytest.mark.parametrize(
    ("op_type", "shapes", "kernel"),
    [
        ("Conv", ((1, 4, 6, 6), (8, 4, 3, 3)), "QLinearConv"),
        ("Gemm", ((3, 16), (16, 8)), "QGemm"),
        ("MatMul", ((3, 16), (16, 8)), "QLinearMatMul"),
    ],
)
def test_the_runtime_really_runs_integers(op_type: str, shapes: Any, kernel: str) -> None:
    """Otherwise the comparisons above would all be with float arithmetic."""
    rng = np.random.default_rng(0)
    x = activation(rng, shapes[0])
    w = weight(rng, shapes[1], 0 if op_type == "Conv" else 1)
    operands = [x, w] if op_type == "MatMul" else [x, w, bias(rng, x, w, 8)]
    ran = kernels(op_type, operands, qparams(1, 128))
    assert kernel in ran
    assert not {op_type, "DequantizeLinear", "QuantizeLinear"} & set(ran)


def test_padding_holds_the_zero_point() -> None:
    x = Quantized(np.full((1, 1, 3, 3), 77, np.uint8), qparams(0.5, 77))
    w = Quantized(np.full((1, 1, 3, 3), 100, np.int8), qparams([0.1], 0, "int8", 0), True)
    y = qparams(0.5, 13)
    ours = arithmetic.conv(x.q, x.qparams, w.q, w.qparams, y=y, pads=[1, 1, 1, 1])
    assert (ours == 13).all()


def test_scale_along_summed_axis_is_refused() -> None:
    rng = np.random.default_rng(0)
    x, w = activation(rng, (2, 4)), weight(rng, (4, 3), 0)
    with pytest.raises(ValueError, match="last axis"):
        arithmetic.matmul(x.q, x.qparams, w.q, w.qparams)


@quick
@given(seeds, st.integers(0, 255), weight_dtypes)
def test_accumulator_bounds_are_reached_and_never_passed(
    seed: int, zero_point: int, w_dtype: Any
) -> None:
    rng = np.random.default_rng(seed)
    x_params = qparams(1, zero_point)
    w = weight(rng, (5, 2, 3, 3), 0, w_dtype)
    b = rng.integers(-(2**20), 2**20, 5).astype(np.int32)
    least, most = arithmetic.accumulator_bounds(w.q, w.qparams, x_params, b)

    unit = qparams(np.ones(5), w.qparams.zero_point, w_dtype, 0)

    def sums(q: Any) -> Any:
        return arithmetic.conv(q.astype(np.uint8), x_params, w.q, unit, b).astype(np.int64)[
            :, :, 0, 0
        ]

    some = sums(rng.integers(0, 256, (20, 2, 3, 3)))
    assert (least <= some).all()
    assert (some <= most).all()
    positive = arithmetic.centered(w.q, w.qparams) > 0
    np.testing.assert_array_equal(np.diag(sums(np.where(positive, 255, 0))), most)
    np.testing.assert_array_equal(np.diag(sums(np.where(positive, 0, 255))), least)


# 2**31 / (255 * 127), the longest sum of u8 * s8 products that int32 holds whatever the values.
LONGEST_SUM = 66311


def test_the_longest_sum_fits_int32_and_one_more_does_not() -> None:
    x_params, w_params, y = qparams(1, 0), qparams(1, 0, "int8"), qparams(2.0**23, 0)

    def product(k: int, value: int) -> Any:
        x, w = np.full((1, k), 255, np.uint8), np.full((k, 1), value, np.int8)
        return arithmetic.matmul(x, x_params, w, w_params, y=y)

    low, high = BOUNDS["int32"]
    assert LONGEST_SUM * 255 * 127 <= high < (LONGEST_SUM + 1) * 255 * 127
    assert product(LONGEST_SUM, 127).item() == 255
    assert product(LONGEST_SUM, -127).item() == 0
    with pytest.raises(PlanError, match="outside int32"):
        product(LONGEST_SUM + 1, 127)
    with pytest.raises(PlanError, match="outside int32"):
        product(LONGEST_SUM + 1, -127)
    weights = np.full((1, LONGEST_SUM + 1), 127, np.int8)
    least, most = arithmetic.accumulator_bounds(weights, w_params, x_params)
    assert most[0] > high
    assert least[0] == 0 > low


def test_bias_counts_toward_the_accumulator() -> None:
    x, w = np.full((1, 1), 255, np.uint8), np.full((1, 1), 127, np.int8)
    full = np.array([2**31 - 1 - 255 * 127], np.int32)
    one: QParams = qparams(1, 0)
    assert arithmetic.gemm(x, one, w, qparams(1, 0, "int8"), full).item() == 2.0**31
    with pytest.raises(PlanError):
        arithmetic.gemm(x, one, w, qparams(1, 0, "int8"), full + np.int32(1))


def test_float_output_is_the_exact_sum_of_dequantized_values() -> None:
    rng = np.random.default_rng(1)
    x, w = activation(rng, (3, 40)), weight(rng, (40, 7), 1)
    exact = dequantize(x.q, x.qparams).astype(np.float64) @ dequantize(w.q, w.qparams).astype(float)
    ours = arithmetic.matmul(x.q, x.qparams, w.q, w.qparams)
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=1e-6)


def test_rescaling_rounds_half_to_even_and_clamps() -> None:
    acc = np.array([1, 3, 5, -1, -3, 10**6, -(10**6)])
    half = np.full((), 0.5, np.float32)
    ours = arithmetic.rescale(acc, half, qparams(1, 10))
    np.testing.assert_array_equal(ours, [10, 12, 12, 10, 8, 255, 0])


def test_rescaling_begins_with_a_float32_sum() -> None:
    acc, one = np.array([2**24 + 1, 2**31 - 1]), np.ones((), np.float32)
    np.testing.assert_array_equal(arithmetic.rescale(acc, one, None), [2.0**24, 2.0**31])
    # 2**31 - 1 becomes 2**31, which divided by 2**24 is 128 exactly.
    step = qparams(2.0**24, 0)
    np.testing.assert_array_equal(arithmetic.rescale(acc, one, step), [1, 128])
