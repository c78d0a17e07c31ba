"""Whether the data was enough: what is named, and when more is asked for."""

import numpy as np
import pytest

import intact
from intact.calibrate.adequacy import adequacy
from intact.core.statistics import Statistics, TensorStatistics
from tests.calibrate.test_calibrate import IMAGES, cnn

RNG = np.random.default_rng(0)


def statistics(count: int, scale: float) -> Statistics:
    """Values in [-1, 1] in both halves, times `scale` in the second."""
    halves = ({}, {})
    for half, factor in zip(halves, (1.0, scale), strict=True):
        merged = TensorStatistics()
        for _ in range(count):
            sample = (RNG.uniform(-1, 1, 500) * factor).astype(np.float32)
            merged = merged.merge(TensorStatistics.of(sample))
        half["x"] = merged
    return Statistics("test", halves)


def test_equal_halves_are_enough() -> None:
    found = adequacy(statistics(10, 1.0))
    assert found.enough and "enough" in str(found)


@pytest.mark.parametrize(("count", "scale"), [(10, 3.0), (2, 1.0)])
def test_unequal_or_small_halves_ask_for_more(count: int, scale: float) -> None:
    found = adequacy(statistics(count, scale))
    assert found.unstable["x"] > 0.25
    assert "give more data" in str(found)


def test_unreached_and_constant_are_named() -> None:
    constant = TensorStatistics.of(np.full(5, 2, np.float32))
    half = {"never": TensorStatistics(), "same": constant}
    found = adequacy(Statistics("test", (half, half)))
    assert found.unreached == ("never",) and found.constant == ("same",)
    assert "never" in str(found) and "same" in str(found)


def test_quantize_warns_of_too_little_data() -> None:
    with pytest.warns(UserWarning, match="4 samples are not enough"):
        intact.quantize(cnn(), calibration=[IMAGES[:4]])
