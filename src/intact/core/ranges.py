"""Range methods: from what was observed of a tensor to the interval that its integers will cover.

Each returns (low, high) with low <= 0 <= high, so that zero is exactly representable.
"""

import math
from collections.abc import Callable
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from intact.core.errors import NotObserved
from intact.core.qparams import QParams, asymmetric, quantize, symmetric
from intact.core.statistics import TensorStatistics

__all__ = ["METHODS", "Method", "Range", "entropy", "minmax", "mse", "percentile", "weight_qparams"]

Method = Literal["minmax", "percentile", "mse", "entropy"]

LEVELS: Final = 256  # of an 8-bit integer


class Range(NamedTuple):
    """A closed interval of real values that holds zero."""

    low: float
    high: float


def minmax(stats: TensorStatistics) -> Range:
    """The range that holds every observed value. Raises NotObserved if nothing was observed."""
    _require_observed(stats)
    return Range(min(stats.low, 0.0), max(stats.high, 0.0))


def percentile(stats: TensorStatistics, keep: float = 0.9999) -> Range:
    """The range that cuts off at most `1 - keep` of the observed values, as much at either end.

    keep: fraction in (0, 1]. Raises NotObserved if nothing was observed.
    Source: Wu et al. 2020, Integer Quantization for Deep Learning Inference, section 5.
    """
    _require_observed(stats)
    if not 0.0 < keep <= 1.0:
        raise ValueError(f"keep is {keep}; it must lie in (0, 1]")
    tail = (1.0 - keep) / 2 * stats.count
    below = np.cumsum(stats.counts)
    above = np.cumsum(stats.counts[::-1])
    edges = stats.edges
    # The first bin from either end with which more than the tail would be cut off stays in.
    low = edges[int(np.searchsorted(below, tail, side="right"))]
    high = edges[stats.counts.size - int(np.searchsorted(above, tail, side="right"))]
    return Range(
        min(max(float(low), stats.low), 0.0),
        max(min(float(high), stats.high), 0.0),
    )


def mse(stats: TensorStatistics) -> Range:
    """The range whose 256 levels leave the smallest mean squared error over the histogram.

    Searched by shrinking either end of the min-max range on a grid, then on a finer grid around
    the best; the error inside the range is step**2 / 12 weighted by where the values lie, and the
    error outside is the squared distance to the nearer end.
    Raises NotObserved if nothing was observed.
    Source: Banner et al. 2019, Post-training 4-bit quantization, section 3 (clipping by MSE);
    Nagel et al. 2021, A White Paper on Neural Network Quantization, section 3.1.
    """
    full = minmax(stats)
    cost = _clipping_cost(stats)

    def best(lows: NDArray[np.float64], highs: NDArray[np.float64]) -> tuple[float, float]:
        costs = cost(full.low * lows[:, None], full.high * highs[None, :])
        i, j = np.unravel_index(int(np.argmin(costs)), costs.shape)
        return float(lows[i]), float(highs[j])

    coarse = np.linspace(1.0, 0.02, 50)
    one = np.ones(1)
    low, high = best(coarse if full.low < 0 else one, coarse if full.high > 0 else one)
    fine = np.linspace(0.02, -0.02, 21)
    low, high = best(
        np.clip(low + fine, 1e-3, 1.0) if full.low < 0 else one,
        np.clip(high + fine, 1e-3, 1.0) if full.high > 0 else one,
    )
    return Range(full.low * low, full.high * high)


def entropy(stats: TensorStatistics) -> Range:
    """The range whose 256 levels keep the most of the distribution's information.

    For each candidate range the histogram, with what lies outside moved into its end bins, is
    compared with its 256-level version by Kullback-Leibler divergence; the smallest wins. Both
    ends are shrunk together first, then each alone, since either may have a tail.
    Raises NotObserved if nothing was observed.
    Source: Migacz 2017, 8-bit Inference with TensorRT; Wu et al. 2020, section 5.
    """
    full = minmax(stats)
    # The bin around zero holds mostly exact zeros (ReLU, padding), which every range represents
    # exactly; counting it would drown the shape of everything else.
    centers = stats.centers
    weights = np.where(centers == 0, 0, stats.counts).astype(np.float64)
    if not weights.any():
        return full
    parts = [float(part) for part in np.linspace(1.0, 0.05, 96)]

    def best(candidates: list[Range]) -> Range:
        return min(candidates, key=lambda candidate: _divergence(centers, weights, candidate))

    together = best([Range(full.low * part, full.high * part) for part in parts])
    upper = best([together, *(Range(together.low, full.high * part) for part in parts)])
    return best([upper, *(Range(full.low * part, upper.high) for part in parts)])


METHODS: Final[dict[Method, Callable[[TensorStatistics], Range]]] = {
    "minmax": minmax,
    "percentile": percentile,
    "mse": mse,
    "entropy": entropy,
}


def weight_qparams(
    weight: NDArray[np.float32], axis: int | None, method: Literal["mse", "minmax"] = "mse"
) -> QParams:
    """Symmetric int8 parameters of a weight, one scale per index of `axis` (None: one in all).

    Use them with `quantize_weight`, which clamps to [-127, 127]. Raises ValueError on NaN or Inf.

    Among ranges of 0.80 to 1.00 of the largest magnitude the one with the smallest squared error
    is taken, where it improves on the full range by more than 2 % (less is within the noise of
    the rounding and would only clip). Channels far smaller than the rest keep a scale of at least
    1/1000 of the median channel's, so that an int32 bias at that scale cannot overflow.
    """
    first = weight[np.newaxis] if axis is None else np.moveaxis(weight, axis, 0)
    rows = first.reshape(first.shape[0], math.prod(first.shape[1:]))
    absmax = np.abs(rows).max(axis=1, initial=0.0)
    alive = absmax[absmax > 0]
    floor = np.float32(1e-3) * np.median(alive) if alive.size else np.float32(0)
    absmax = np.maximum(absmax, floor).astype(np.float32)
    if not np.isfinite(absmax).all():
        raise ValueError("the weight holds NaN or infinity")
    chosen = absmax.copy()
    if method == "mse":
        least = _row_errors(rows, absmax) * np.float32(0.98)
        for part in np.linspace(0.99, 0.80, 20, dtype=np.float32):
            errors = _row_errors(rows, absmax * part) * part**2
            better = errors < least
            chosen[better] = (absmax * part)[better]
            least = np.where(better, errors, least)
    return symmetric(chosen if axis is not None else chosen[0], axis=axis)


def _row_errors(rows: NDArray[np.float32], absmax: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row's sum of squared rounding errors, in squares of `absmax / 127`."""
    qparams = symmetric(absmax, axis=0)
    steps = rows / qparams.scale[:, None]
    rounded = np.clip(np.rint(steps), -127, 127)
    errors: NDArray[np.float32] = np.square(rounded - steps).sum(axis=1, dtype=np.float32)
    return errors


def _require_observed(stats: TensorStatistics) -> None:
    if stats.samples == 0:
        raise NotObserved("the calibration data never reached this tensor; no range can be chosen")


def _clipping_cost(
    stats: TensorStatistics,
) -> Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]:
    """The expected squared error of quantizing to [low, high], vectorized over candidates."""
    centers, counts = stats.centers, stats.counts.astype(np.float64)
    zero = counts[centers == 0].sum()
    # Prefix sums of 1, x and x^2 turn each candidate's clipping error into a few look-ups.
    sums = [np.concatenate([[0.0], np.cumsum(counts * centers**p)]) for p in range(3)]
    total = counts.sum()

    def cost(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
        under, over = np.searchsorted(centers, low), np.searchsorted(centers, high, side="right")
        b0, b1, b2 = (s[under] for s in sums)
        a0, a1, a2 = (s[-1] - s[over] for s in sums)
        clipped = (b2 - 2 * low * b1 + low**2 * b0) + (a2 - 2 * high * a1 + high**2 * a0)
        step = (high - low) / (LEVELS - 1)
        # Values in the bin around zero are represented exactly and carry no rounding error.
        inside = np.maximum(total - zero - b0 - a0, 0.0)
        result: NDArray[np.float64] = clipped + inside * step**2 / 12
        return result

    return cost


def _divergence(
    centers: NDArray[np.float64], weights: NDArray[np.float64], candidate: Range
) -> float:
    """KL divergence from the clipped histogram to its 256-level version, in nats.

    Added to it is the divergence of the kept part from the whole, `-log(share kept)`.
    """
    inside = (centers >= candidate.low) & (centers <= candidate.high) & (weights > 0)
    if not inside.any():
        return float("inf")
    # What is clipped joins the outermost occupied bins: the quantized version, which knows only
    # the inside, has weight there, so that the divergence is finite.
    first, last = np.flatnonzero(inside)[[0, -1]]
    kept = np.where(inside, weights, 0.0)
    clipped = kept.copy()
    clipped[first] += weights[:first].sum()
    clipped[last] += weights[last + 1 :].sum()
    levels = quantize(centers.astype(np.float32), asymmetric(*candidate)).astype(np.intp)
    mass = np.bincount(levels, kept, LEVELS)
    bins = np.bincount(levels[inside], minlength=LEVELS)
    spread = mass[levels[inside]] / bins[levels[inside]]
    p, q = clipped[inside] / clipped.sum(), spread / spread.sum()
    # Few bins are easily alike; the last term keeps a range from being shrunk to those few.
    return float((p * np.log(p / q)).sum() - np.log(kept.sum() / weights.sum()))
