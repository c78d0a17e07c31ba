"""Laws and known cases of the range methods."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from intact.core.errors import NotObserved
from intact.core.qparams import asymmetric, fake_quantize, quantize_weight
from intact.core.ranges import (
    METHODS,
    Range,
    entropy,
    minmax,
    mse,
    percentile,
    weight_qparams,
)
from intact.core.statistics import TensorStatistics

quick = settings(max_examples=60, deadline=None, derandomize=True)
LARGEST = float(np.finfo(np.float32).max)
finite = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.sampled_from([0.0, 2.0**-149, -(2.0**-149), LARGEST, -LARGEST]),
    st.floats(-4, 4, width=32),
)
samples = arrays.arrays(np.float32, st.integers(1, 60), elements=finite)
methods = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
of = TensorStatistics.of
rng = np.random.default_rng(0)
GAUSS = rng.standard_normal(200_000).astype(np.float32)
UNIFORM = rng.uniform(-1, 1, 200_000).astype(np.float32)


@pytest.fixture(autouse=True)
def _warnings_are_errors() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def error(x: NDArray[np.float32], chosen: Range) -> float:
    """The mean squared error of quantizing `x` to 256 levels in the range."""
    return float(np.mean(np.square(fake_quantize(x, asymmetric(*chosen)).astype(float) - x)))


@methods
@quick
@given(x=samples)
def test_a_range_holds_zero_lies_within_minmax_and_is_of_floats(method: Any, x: Any) -> None:
    stats = of(x)
    chosen = method(stats)
    full = minmax(stats)
    assert full.low <= chosen.low <= 0 <= chosen.high <= full.high
    assert type(chosen) is Range
    assert type(chosen.low) is float
    assert type(chosen.high) is float
    asymmetric(*chosen)


@methods
def test_nothing_observed_has_no_range(method: Any) -> None:
    with pytest.raises(NotObserved):
        method(TensorStatistics())


@methods
@pytest.mark.parametrize("value", [3.0, -3.0, 0.0, 2.0**-149, LARGEST])
def test_a_constant_is_kept(method: Any, value: float) -> None:
    x = np.full(100, value, np.float32)
    assert method(of(x)) == Range(min(value, 0), max(value, 0))


@methods
@pytest.mark.parametrize("values", [[0, 1], [-1, 1], [-1, 0, 1], [-3, 5], [0, 0, 0, 7]])
def test_a_few_distinct_values_are_kept(method: Any, values: list[float]) -> None:
    x = np.repeat(np.array(values, np.float32), 50)
    chosen = method(of(x))
    span = x.max() - x.min()
    assert np.abs(fake_quantize(x, asymmetric(*chosen)) - x).max() <= span / 100


@methods
@pytest.mark.parametrize("exponent", [-60, 3, 60])
def test_a_power_of_two_scales_the_range_exactly(method: Any, exponent: int) -> None:
    x = GAUSS[:5000]
    low, high = method(of(x))
    scaled = method(of(np.ldexp(x, exponent)))
    assert scaled == pytest.approx((np.ldexp(low, exponent), np.ldexp(high, exponent)), rel=1e-12)


@methods
def test_a_mirrored_tensor_has_the_mirrored_range(method: Any) -> None:
    x = np.abs(GAUSS[:20000])
    low, high = method(of(x))
    mirrored = method(of(-x))
    # Rounding is not quite symmetric (the zero point is whole), so a candidate may differ.
    assert (-mirrored.high, -mirrored.low) == pytest.approx((low, high), rel=0.05)


@methods
def test_uniform_values_are_nearly_all_kept(method: Any) -> None:
    chosen = method(of(UNIFORM))
    assert chosen.low < -0.97
    assert chosen.high > 0.97


@pytest.mark.parametrize("method", [percentile, entropy, mse])
@pytest.mark.parametrize("sides", [[50.0], [-50.0], [50.0, -50.0]])
def test_rare_far_outliers_are_clipped(method: Any, sides: list[float]) -> None:
    x = np.concatenate([GAUSS, np.array(sides, np.float32)])
    chosen = method(of(x))
    reach = 0.9 * 50 if method is mse else 12  # an outlier's squared error weighs with MSE
    assert min(sides) > -50 or -reach < chosen.low
    assert max(sides) < 50 or chosen.high < reach
    assert chosen.low < -2.5
    assert chosen.high > 2.5


def test_entropy_keeps_the_short_side_of_a_lopsided_tensor() -> None:
    """A far tail above must not cost the lobe below zero (GELU, SiLU)."""
    x = GAUSS / (1 + np.exp(-1.7 * GAUSS))
    x = np.append(x, np.float32(40)).astype(np.float32)
    chosen = entropy(of(x))
    assert chosen.low < 0.9 * x.min()
    assert 3 < chosen.high < 15


def test_entropy_is_not_fooled_by_few_values() -> None:
    x = np.random.default_rng(5).standard_normal(10).astype(np.float32)
    assert entropy(of(x)) == minmax(of(x))


def test_entropy_ignores_how_many_zeros_there_are() -> None:
    x = np.maximum(GAUSS, 0)
    padded = np.concatenate([x, np.zeros(500_000, np.float32)])
    assert entropy(of(x)) == entropy(of(padded))


@quick
@given(samples)
def test_minmax_clips_nothing(x: NDArray[np.float32]) -> None:
    low, high = minmax(of(x))
    assert (low, high) == (min(float(x.min()), 0.0), max(float(x.max()), 0.0))


@quick
@given(samples, st.floats(0.5, 1.0))
def test_percentile_keeps_what_it_promises(x: NDArray[np.float32], keep: float) -> None:
    low, high = percentile(of(x), keep)
    tail = (1 - keep) / 2 * x.size
    assert (x < low).sum() <= tail
    assert (x > high).sum() <= tail


@quick
@given(samples)
def test_percentile_of_everything_is_minmax(x: NDArray[np.float32]) -> None:
    assert percentile(of(x), 1.0) == minmax(of(x))


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.0001, float("nan")])
def test_percentile_refuses_a_share_outside_its_bounds(keep: float) -> None:
    with pytest.raises(ValueError, match="keep"):
        percentile(of(GAUSS[:10]), keep)


def test_percentile_agrees_with_numpys() -> None:
    low, high = percentile(of(GAUSS), 0.99)
    width = 2.0 ** of(GAUSS).exponent
    assert abs(low - np.quantile(GAUSS, 0.005)) <= width
    assert abs(high - np.quantile(GAUSS, 0.995)) <= width


@pytest.mark.parametrize(
    "x",
    [
        GAUSS,
        UNIFORM,
        np.maximum(GAUSS, 0),
        GAUSS**3,
        np.exp(GAUSS),
        np.append(GAUSS, np.float32(30)),
        GAUSS * (GAUSS > 1),
    ],
    ids=["gauss", "uniform", "relu", "cubed", "exp", "outlier", "sparse"],
)
def test_mse_is_no_worse_than_the_others_in_truth(x: NDArray[np.float32]) -> None:
    stats = of(x)
    best = error(x, mse(stats))
    assert all(best <= 1.02 * error(x, method(stats)) for method in METHODS.values())


def test_mse_finds_the_best_of_a_fine_search() -> None:
    x = GAUSS**3
    low, high = mse(of(x))
    found = error(x, Range(low, high))
    others = [
        error(x, Range(float(x.min()) * a, float(x.max()) * b))
        for a in np.linspace(0.1, 1, 15)
        for b in np.linspace(0.1, 1, 15)
    ]
    assert found <= 1.02 * min(others)


def test_mse_of_a_gaussian_is_the_published_optimum() -> None:
    # Banner et al. 2019, figure 1 and appendix: about 3.9 standard deviations at 8 bits.
    low, high = mse(of(GAUSS))
    assert 3.7 < -low < 4.2
    assert 3.7 < high < 4.2


# --- weights

weights = arrays.arrays(
    np.float32, st.tuples(st.integers(0, 4), st.integers(0, 9)), elements=st.floats(-2, 2, width=32)
)


@quick
@given(weights, st.sampled_from([0, 1, None]), st.sampled_from(["mse", "minmax"]))
def test_weights_have_symmetric_scales_of_their_channels(w: Any, axis: Any, method: Any) -> None:
    chosen = weight_qparams(w, axis, method)
    assert chosen.scale.shape == (() if axis is None else (w.shape[axis],))
    assert (chosen.zero_point == 0).all()
    assert (chosen.dtype, chosen.axis) == ("int8", axis)
    if method == "minmax" and w.size:
        error = np.abs(quantize_weight(w, chosen) * chosen.broadcast(2)[0] - w)
        alive = chosen.broadcast(2)[0] < 1
        assert (error <= np.where(alive, 0.501 * chosen.broadcast(2)[0], 1e-30)).all()


@pytest.mark.parametrize("exponent", [-60, -20, 0, 20, 60, 100])
def test_the_choice_of_a_weights_range_does_not_depend_on_its_magnitude(exponent: int) -> None:
    w = GAUSS[:8000].reshape(8, 1000)
    one, scaled = weight_qparams(w, 0), weight_qparams(np.ldexp(w, exponent), 0)
    np.testing.assert_array_equal(np.ldexp(one.scale, exponent), scaled.scale)
    assert (one.scale < weight_qparams(w, 0, "minmax").scale).any()


def test_mse_of_weights_is_no_worse_than_minmax() -> None:
    w = GAUSS[:8000].reshape(8, 1000)
    errors = []
    for method in ("mse", "minmax"):
        chosen = weight_qparams(w, 0, method)  # type: ignore[arg-type]
        real = quantize_weight(w, chosen) * chosen.broadcast(2)[0]
        errors.append(np.square(real - w).sum(axis=1))
    assert (errors[0] <= errors[1]).all()
    assert (errors[0] < 0.98 * errors[1]).any()


def test_near_dead_channels_keep_a_scale_that_an_int32_bias_survives() -> None:
    w = np.stack([GAUSS[:100], GAUSS[:100] * np.float32(1e-9), np.zeros(100, np.float32)])
    scale = weight_qparams(w, 0).scale
    assert scale[1] >= scale[0] * 4e-4
    assert scale[2] >= scale[0] * 4e-4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    w = np.ones((2, 3), np.float32)
    w[1, 1] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        weight_qparams(w, 0)


def test_negative_axes_count_from_the_end() -> None:
    w = GAUSS[:60].reshape(3, 4, 5)
    np.testing.assert_array_equal(weight_qparams(w, -1).scale, weight_qparams(w, 2).scale)


def test_the_largest_weights_overflow_nothing() -> None:
    chosen = weight_qparams(np.array([[LARGEST, -LARGEST], [0, 1]], np.float32), 0)
    assert np.isfinite(chosen.scale * np.float32(127)).all()
