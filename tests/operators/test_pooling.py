"""Pools agree with ONNX Runtime's QDQ form to one least significant bit."""

from typing import Any

import numpy as np
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

seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from(["uint8", "int8"])


@st.composite
def geometries(draw: st.DrawFn) -> dict[str, Any]:
    n = draw(st.integers(1, 2))
    kernel = draw(st.lists(st.integers(1, 3), min_size=n, max_size=n))
    return {
        "spatial": draw(st.lists(st.integers(5, 10), min_size=n, max_size=n)),
        "kernel": kernel,
        "strides": draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)),
        # No window may lie in the padding alone.
        "pads": [draw(st.integers(0, k - 1)) for k in kernel + kernel],
        "ceil_mode": draw(st.booleans()),
    }


def _split(geometry: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same geometry as the reference's arguments and as ONNX's attributes."""
    ours = {name: value for name, value in geometry.items() if name != "spatial"}
    theirs = {**ours, "kernel_shape": ours["kernel"], "ceil_mode": int(ours["ceil_mode"])}
    del theirs["kernel"]
    return ours, theirs


@quick
@given(seeds, geometries(), dtypes, st.integers(1, 2))
def test_max_pool(seed: int, geometry: dict[str, Any], dtype: Any, dilation: int) -> None:
    x = activation(np.random.default_rng(seed), (2, 3, *geometry["spatial"]), dtype)
    ours, theirs = _split(geometry)
    ours["dilations"] = theirs["dilations"] = [dilation] * len(geometry["kernel"])
    pooled = arithmetic.max_pool(x.q, x.qparams, x.qparams, **ours)
    assert_within_one(pooled, run_both("MaxPool", [x], x.qparams, theirs))
    other = qparams(0.05, 100 if dtype == "uint8" else -28, dtype)
    pooled = arithmetic.max_pool(x.q, x.qparams, other, **ours)
    assert_within_one(pooled, run_both("MaxPool", [x], other, theirs))


@quick
@given(seeds, geometries(), dtypes, st.booleans())
def test_average_pool(
    seed: int, geometry: dict[str, Any], dtype: Any, count_include_pad: bool
) -> None:
    x = activation(np.random.default_rng(seed), (2, 3, *geometry["spatial"]), dtype)
    ours, theirs = _split(geometry)
    ours["count_include_pad"] = count_include_pad
    theirs["count_include_pad"] = int(count_include_pad)
    real = arithmetic.average_pool(x.q, x.qparams, **ours)
    assert_close(real, run_both("AveragePool", [x], None, theirs))
    y = output(real, dtype)
    pooled = arithmetic.average_pool(x.q, x.qparams, y, **ours)
    results = run_both("AveragePool", [x], y, theirs)
    if count_include_pad and ours["ceil_mode"]:
        # QLinearAveragePool (ONNX Runtime 1.32) counts what ceil_mode adds beyond the padding,
        # against ONNX and against its own float AveragePool; only the latter is compared.
        results = results[1:]
    assert_within_one(pooled, results)


@quick
@given(seeds, st.lists(st.integers(1, 9), min_size=1, max_size=3), dtypes)
def test_global_pools(seed: int, spatial: list[int], dtype: Any) -> None:
    x = activation(np.random.default_rng(seed), (2, 3, *spatial), dtype)
    y = output(arithmetic.global_average_pool(x.q, x.qparams), dtype)
    mean = arithmetic.global_average_pool(x.q, x.qparams, y)
    assert_within_one(mean, run_both("GlobalAveragePool", [x], y))
    greatest = arithmetic.global_max_pool(x.q, x.qparams, x.qparams)
    assert_within_one(greatest, run_both("GlobalMaxPool", [x], x.qparams))


def test_average_of_a_constant_is_the_constant_inside_and_beside_padding() -> None:
    x = Quantized(np.full((1, 2, 6, 6), 200, np.uint8), qparams(0.1, 30))
    pooled = arithmetic.average_pool(
        x.q, x.qparams, x.qparams, kernel=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2], ceil_mode=True
    )
    assert (pooled == 200).all()
