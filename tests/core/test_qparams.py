"""Laws of quantize and dequantize."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from intact.core.qparams import (
    BOUNDS,
    QParams,
    asymmetric,
    dequantize,
    fake_quantize,
    quantize,
    quantize_weight,
    symmetric,
)

quick = settings(max_examples=60, deadline=None, derandomize=True)
LARGEST = float(np.finfo(np.float32).max)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
dtypes = st.sampled_from(["uint8", "int8"])
rows = arrays.arrays(np.float32, st.integers(1, 30), elements=finite)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def every(dtype: Any) -> NDArray[Any]:
    low, high = BOUNDS[dtype]
    return np.arange(low, high + 1).astype(dtype)


@quick
@given(finite, finite, dtypes)
def test_zero_is_exact_and_every_level_is_finite(a: float, b: float, dtype: Any) -> None:
    for chosen in (asymmetric(min(a, b), max(a, b), dtype), symmetric(abs(a), dtype)):
        zero = np.zeros((), np.float32)
        assert quantize(zero, chosen) == chosen.zero_point
        assert fake_quantize(zero, chosen) == 0
        assert np.isfinite(dequantize(every(dtype), chosen)).all()


@quick
@given(finite, finite, dtypes)
def test_every_integer_survives_the_round_trip(a: float, b: float, dtype: Any) -> None:
    chosen = asymmetric(min(a, b), max(a, b), dtype)
    np.testing.assert_array_equal(quantize(dequantize(every(dtype), chosen), chosen), every(dtype))


@quick
@given(rows, dtypes)
def test_inside_the_range_the_error_is_at_most_half_a_step(x: NDArray[Any], dtype: Any) -> None:
    x = x / np.float32(2)  # beyond half of float32's range clamps
    for chosen in (asymmetric(x.min(), x.max(), dtype), symmetric(np.abs(x).max(), dtype)):
        error = np.abs(fake_quantize(x, chosen).astype(np.float64) - x)
        if chosen.scale == 1 and np.abs(x).max() < 1e-30:
            assert (error == np.abs(x)).all()  # a degenerate range keeps zero alone
        else:
            # Rounding the zero point moves either end by another half step at most.
            assert (error <= float(chosen.scale) * 1.0001).all()
            inner = (x > 0.99 * x.min()) & (x < 0.99 * x.max())
            assert (error[inner] <= float(chosen.scale) * 0.5001).all()


@quick
@given(rows, finite, finite, dtypes)
def test_quantize_is_monotonic(x: NDArray[Any], a: float, b: float, dtype: Any) -> None:
    q = quantize(np.sort(x), asymmetric(min(a, b), max(a, b), dtype)).astype(int)
    assert (np.diff(q) >= 0).all()


@quick
@given(rows, st.floats(2.0**-126, 2.0**120, width=32), st.integers(0, 255), dtypes)
def test_agrees_with_onnxs_own_reference(
    x: NDArray[Any], scale: float, point: int, dtype: Any
) -> None:
    low, _ = BOUNDS[dtype]
    chosen = QParams(np.float32(scale), np.int32(low + point), dtype)
    kind = TensorProto.UINT8 if dtype == "uint8" else TensorProto.INT8
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "scale", "point"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["y"]),
        ],
        "quantize",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("scale", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("point", kind, []),
        ],
        [
            helper.make_tensor_value_info("q", kind, [None]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [None]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    # The reference casts to int32 before it clamps, so it is asked for nothing beyond that.
    reach = np.float32(min(scale * 2.0**30, LARGEST))
    x = np.clip(x, -reach, reach)
    feeds = {"x": x, "scale": chosen.scale, "point": chosen.zero_point.astype(dtype)}
    q, y = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_array_equal(quantize(x, chosen), q)
    np.testing.assert_array_equal(dequantize(q, chosen), y)


def test_halves_round_to_even() -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    np.testing.assert_array_equal(
        quantize(x, QParams(np.float32(1), np.int32(0), "int8")), [0, 2, 2, 0, -2]
    )


def test_infinities_and_overflowing_quotients_clamp() -> None:
    x = np.array([-np.inf, -LARGEST, LARGEST, np.inf], np.float32)
    chosen = QParams(np.float32(2.0**-126), np.int32(7))
    np.testing.assert_array_equal(quantize(x, chosen), [0, 0, 255, 255])


def test_int32_is_exact_beyond_float32s_whole_numbers() -> None:
    chosen = QParams(np.float32(1), np.int32(1), "int32")
    x = np.array([2.0**30, -(2.0**31), 2.0**31], np.float32)
    np.testing.assert_array_equal(quantize(x, chosen), [2**30 + 1, -(2**31) + 1, 2**31 - 1])


@quick
@given(rows, dtypes, st.floats(0.125, 1, width=32))
def test_weights_keep_to_127_steps_either_side(x: NDArray[Any], dtype: Any, part: float) -> None:
    chosen = symmetric(np.abs(x).max() * np.float32(part), dtype)
    q = quantize_weight(x, chosen).astype(int) - chosen.zero_point
    assert np.abs(q).max() <= 127
    negated = quantize_weight(-x, chosen).astype(int) - chosen.zero_point
    np.testing.assert_array_equal(negated, -q)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scales_belong_to_their_axis(axis: int) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4, 3)).astype(np.float32)
    size = x.shape[axis]
    chosen = symmetric(np.linspace(0.5, 2, size, dtype=np.float32), axis=axis)
    q = quantize(x, chosen)
    for i in range(size):
        one = QParams(chosen.scale[i], chosen.zero_point[i], "int8")
        expected = quantize(np.take(x, i, axis), one)
        np.testing.assert_array_equal(np.take(q, i, axis), expected)
    np.testing.assert_array_equal(q.shape, dequantize(q, chosen).shape)


@pytest.mark.parametrize("low_high", [(0, 0), (0, 1e-40), (-1e-37, 0), (-1e-38, 1e-38)])
def test_a_range_too_small_for_a_scale_gives_scale_one(low_high: tuple[float, float]) -> None:
    chosen = asymmetric(*low_high)
    assert (chosen.scale, chosen.zero_point) == (1, 0)
    assert symmetric(max(map(abs, low_high))).scale == 1


@pytest.mark.parametrize("ends", [(np.nan, 1), (0, np.nan), (-np.inf, 0), (0, np.inf)])
def test_a_range_that_is_not_finite_is_refused(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="not finite"):
        asymmetric(*ends)
    with pytest.raises(ValueError, match="not finite"):
        symmetric(np.array(ends, np.float32), axis=0)


@pytest.mark.parametrize(
    ("scale", "point", "dtype", "axis"),
    [
        (0.0, 0, "uint8", None),
        (-1.0, 0, "uint8", None),
        (np.nan, 0, "uint8", None),
        (np.inf, 0, "uint8", None),
        (1.0, 256, "uint8", None),
        (1.0, -1, "uint8", None),
        (1.0, 128, "int8", None),
        (1.0, 0, "int8", 0),
        ([1.0], [0], "int8", None),
        ([1.0, 1.0], [0], "int8", 0),
        ([[1.0]], [[0]], "int8", 0),
    ],
)
def test_impossible_parameters_are_refused(scale: Any, point: Any, dtype: Any, axis: Any) -> None:
    with pytest.raises(ValueError, match=r"scale|zero_point"):
        QParams(np.asarray(scale, np.float32), np.asarray(point, np.int32), dtype, axis)


def test_equal_parameters_are_equal_and_hash_alike() -> None:
    one, same, other = symmetric(1.0), symmetric(1.0), symmetric(2.0)
    assert one == same
    assert hash(one) == hash(same)
    assert one != other
    assert one != symmetric(1.0, "uint8")
    assert len({one, same, other}) == 2
