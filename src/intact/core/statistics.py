"""What calibration remembers of each activation: a commutative monoid with exact merging.

`TensorStatistics.of(sample)` describes one sample's values; `a.merge(b)` describes both. Merging is
associative, commutative and exact, so any order, any batch split and any sharding of the same
samples end in the same bytes:

- counts, minimum and maximum merge exactly by nature;
- the histogram's bin width is the power of two that the largest magnitude demands, and bins are
  cut toward zero (`trunc(x / 2**e)`), so `trunc(trunc(x / 2**e) / 2) == trunc(x / 2**(e+1))` and
  bins of half the width add up to bins of the full width without error;
- the moments of per-sample ranges are sums of float32 values kept as whole multiples of 2**-149,
  the smallest positive float32, in integers of unlimited size.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from intact.core.errors import CalibrationError, ModelFileError
from intact.core.files import write_atomically
from intact.core.native import native

__all__ = ["BINS_PER_SIGN", "Statistics", "TensorStatistics"]

# Bins on either side of zero. At least half of them are in use, so one step of an 8-bit
# quantizer is never finer than four bins (one-sided data) or eight (two-sided data).
BINS_PER_SIGN: Final = 2048
_SMALLEST_EXPONENT: Final = -100  # below this all values share the bin around zero
_UNIT: Final = 149  # float32 values are whole multiples of 2**-149
_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_FORMAT: Final = "intact-statistics-1"


def _exponent(absmax: float) -> int:
    """The smallest e with `absmax < BINS_PER_SIGN * 2**e`."""
    if absmax == 0.0:
        return _SMALLEST_EXPONENT
    return max(math.frexp(absmax)[1] - (BINS_PER_SIGN.bit_length() - 1), _SMALLEST_EXPONENT)


def _describe(x: NDArray[np.float32]) -> tuple[float, float, int, int, NDArray[np.int64]]:
    """Minimum, maximum, bin exponent, first bin and bin counts; no counts if not finite."""
    low, high = float(x.min()), float(x.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return low, high, 0, 0, np.zeros(0, np.int64)
    exponent = _exponent(max(-low, high))
    bins = np.multiply(x, np.float32(math.ldexp(1.0, -exponent))).astype(np.intp)
    # Truncation is monotonic, so the end bins follow from the extremes.
    first = math.trunc(math.ldexp(low, -exponent))
    if first:
        bins -= first
    return low, high, exponent, first, np.bincount(bins)


def _units(x: float) -> int:
    """A float32 value as a whole number of 2**-149."""
    numerator, denominator = float(x).as_integer_ratio()
    return numerator * ((1 << _UNIT) // denominator)


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """The statistics of one activation over some samples.

    samples: number of samples observed; count: number of values in them.
    low, high: the smallest and the largest value (0 if nothing was observed).
    exponent: a bin is `2**exponent` wide; bin i holds values with `trunc(x / 2**exponent) == i`.
    first: the index of the first bin of `counts`; negative bins lie below zero.
    counts: int64, one entry a bin, no empty bins at either end.
    low_sum, low_square, high_sum, high_square: exact sums over samples of the per-sample minimum
        and maximum (in units of 2**-149) and of their squares (in units of 2**-298).
    """

    samples: int = 0
    count: int = 0
    low: float = 0.0
    high: float = 0.0
    exponent: int = _SMALLEST_EXPONENT
    first: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    low_sum: int = 0
    low_square: int = 0
    high_sum: int = 0
    high_square: int = 0

    @staticmethod
    def of(sample: NDArray[np.float32]) -> "TensorStatistics":
        """The statistics of one sample's values (any shape; converted to float32).

        Raises CalibrationError if a value is NaN or infinite. An empty sample leaves no trace.
        """
        x = np.ascontiguousarray(sample, np.float32).reshape(-1)
        if x.size == 0:
            return TensorStatistics()
        describe = _describe if native is None else native.describe
        low, high, exponent, first, counts = describe(x)
        if not (math.isfinite(low) and math.isfinite(high)):
            fault = "NaN" if math.isnan(low) or math.isnan(high) else "infinity"
            raise CalibrationError(f"a value is {fault}")
        below, above = _units(low), _units(high)
        return TensorStatistics(
            1, x.size, low + 0.0, high + 0.0, exponent, first, counts,
            below, below * below, above, above * above,
        )  # fmt: skip

    def merge(self, other: "TensorStatistics") -> "TensorStatistics":
        """The statistics of both sets of samples."""
        if self.samples == 0 or other.samples == 0:
            return other if self.samples == 0 else self
        exponent = max(self.exponent, other.exponent)
        mine, theirs = self._widened(exponent), other._widened(exponent)
        first = min(mine[0], theirs[0])
        stop = max(mine[0] + mine[1].size, theirs[0] + theirs[1].size)
        counts = np.zeros(stop - first, np.int64)
        for start, part in (mine, theirs):
            counts[start - first : start - first + part.size] += part
        return TensorStatistics(
            self.samples + other.samples,
            self.count + other.count,
            min(self.low, other.low),
            max(self.high, other.high),
            exponent,
            first,
            counts,
            self.low_sum + other.low_sum,
            self.low_square + other.low_square,
            self.high_sum + other.high_sum,
            self.high_square + other.high_square,
        )

    def raised(self, floor: float) -> "TensorStatistics":
        """The statistics of `max(x, floor)`, up to the width of a bin; the moments stay.

        floor: at most 0, the value below which nothing is told apart.
        """
        first = math.trunc(math.ldexp(floor, -self.exponent))
        if self.samples == 0 or self.low >= floor or first <= self.first:
            return self
        kept = min(first, self.first + self.counts.size - 1) - self.first
        counts = self.counts[kept:].copy()
        counts[0] += self.counts[:kept].sum()
        high = max(self.high, floor)
        return replace(self, low=floor, high=high, first=self.first + kept, counts=counts)

    def _widened(self, exponent: int) -> tuple[int, NDArray[np.int64]]:
        """First bin and counts at a bin width of `2**exponent`, at least the present one."""
        shift = exponent - self.exponent
        if shift == 0:
            return self.first, self.counts
        # Whole bins lie between these, so every coarse bin begins at one of the fine ones.
        index = np.arange(self.first, self.first + self.counts.size)
        coarse = np.sign(index) * (np.abs(index) >> min(shift, 62))
        starts = np.flatnonzero(np.diff(coarse, prepend=coarse[0] - 1))
        return int(coarse[0]), np.add.reduceat(self.counts, starts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TensorStatistics)
            and self._scalars() == other._scalars()
            and np.array_equal(self.counts, other.counts)
        )

    def __hash__(self) -> int:
        return hash((tuple(self._scalars().items()), self.counts.tobytes()))

    def _scalars(self) -> dict[str, int | float]:
        return {name: value for name, value in vars(self).items() if name != "counts"}

    @property
    def centers(self) -> NDArray[np.float64]:
        """The middle of each bin of `counts`; the bin around zero counts as exactly zero."""
        index = np.arange(self.first, self.first + self.counts.size)
        return (index + 0.5 * np.sign(index)) * math.ldexp(1.0, self.exponent)

    @property
    def edges(self) -> NDArray[np.float64]:
        """The ends of the bins of `counts`, one more than bins, ascending."""
        index = np.arange(self.first, self.first + self.counts.size + 1)
        # Bin i covers [i, i+1) above zero and (i-1, i] below; the bin around zero covers (-1, 1).
        return np.where(index <= 0, index - 1, index) * math.ldexp(1.0, self.exponent)

    @property
    def low_mean(self) -> float:
        """The mean over samples of the per-sample minimum."""
        return self._mean(self.low_sum, _UNIT)

    @property
    def high_mean(self) -> float:
        """The mean over samples of the per-sample maximum."""
        return self._mean(self.high_sum, _UNIT)

    @property
    def low_std(self) -> float:
        """The standard deviation over samples of the per-sample minimum (population form)."""
        return self._std(self.low_sum, self.low_square)

    @property
    def high_std(self) -> float:
        """The standard deviation over samples of the per-sample maximum (population form)."""
        return self._std(self.high_sum, self.high_square)

    def _mean(self, total: int, unit: int) -> float:
        return total / (self.samples << unit) if self.samples else 0.0

    def _std(self, total: int, square: int) -> float:
        # n * sum(x^2) - sum(x)^2 is exact in integers, so no cancellation is possible.
        variance = self.samples * square - total * total
        if self.samples == 0 or variance <= 0:
            return 0.0
        return math.sqrt(variance / (self.samples**2 << (2 * _UNIT)))


@dataclass(frozen=True)
class Statistics:
    """Value name -> statistics, kept for two halves of the samples; merges like its parts.

    A sample belongs to a half by a hash of its content (see `calibrate.collect`), so halves do not
    depend on order or sharding, and comparing them tells whether there was enough data.

    model: the fingerprint of the graph that was observed; different graphs don't merge.
    """

    model: str
    halves: tuple[Mapping[str, TensorStatistics], Mapping[str, TensorStatistics]]

    @staticmethod
    def empty(model: str, names: Iterable[str]) -> "Statistics":
        """Statistics of no samples for the values `names` of the graph `model`."""
        nothing = {name: TensorStatistics() for name in sorted(names)}
        return Statistics(model, (nothing, nothing))

    @property
    def names(self) -> tuple[str, ...]:
        """The values that are observed."""
        return tuple(self.halves[0])

    @property
    def samples(self) -> int:
        """The number of samples that reached any value."""
        return max((self[name].samples for name in self.names), default=0)

    def __getitem__(self, name: str) -> TensorStatistics:
        return self.halves[0][name].merge(self.halves[1][name])

    def __contains__(self, name: object) -> bool:
        return name in self.halves[0]

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both sets of samples.

        Raises CalibrationError if the two describe different graphs.
        """
        if self.model != other.model or set(self.names) != set(other.names):
            raise CalibrationError(
                f"statistics of graph {self.model} cannot be merged with statistics of graph "
                f"{other.model}; calibrate the same model on every machine"
            )
        first, second = (
            {name: mine[name].merge(theirs[name]) for name in self.names}
            for mine, theirs in zip(self.halves, other.halves, strict=True)
        )
        return Statistics(self.model, (first, second))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; the same statistics always give the same bytes.

        Raises OutputPathError if the file cannot be written; nothing half-written is left.
        """
        from safetensors.numpy import save

        tensors: dict[str, NDArray[np.int64]] = {}
        scalars: dict[str, dict[str, int | float]] = {}
        for half, part in enumerate(self.halves):
            for name in self.names:
                key = f"{half}/{name}"
                tensors[key] = part[name].counts
                scalars[key] = part[name]._scalars()
        header = {"format": _FORMAT, "model": self.model, "scalars": scalars}
        # One entry: safetensors writes several in the random order of a hash map.
        metadata = {"statistics": json.dumps(header, sort_keys=True)}
        write_atomically(Path(path), save(tensors, metadata))

    @staticmethod
    def load(path: str | Path) -> "Statistics":
        """Read what `save` wrote. Raises ModelFileError if the file is not that."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(path), "numpy") as file:
                header = json.loads((file.metadata() or {}).get("statistics", "{}"))
                if header.get("format") != _FORMAT:
                    raise ValueError(f"its format is not '{_FORMAT}'")
                halves: dict[str, dict[str, TensorStatistics]] = {"0": {}, "1": {}}
                for key, scalars in sorted(header["scalars"].items()):
                    half, name = key.split("/", 1)
                    counts = file.get_tensor(key)
                    halves[half][name] = _checked(TensorStatistics(**scalars, counts=counts))
                if halves["0"].keys() != halves["1"].keys():
                    raise ValueError("the two halves name different values")
                return Statistics(str(header["model"]), (halves["0"], halves["1"]))
        except FileNotFoundError:
            raise ModelFileError(f"'{path}' does not exist; give a file of statistics") from None
        except (
            SafetensorError, OSError, ArithmeticError, AttributeError, LookupError,
            RecursionError, TypeError, ValueError,
        ) as error:  # fmt: skip
            raise ModelFileError(
                f"'{path}' is not a readable file of statistics ({error}); save them again"
            ) from None


def _checked(stats: TensorStatistics) -> TensorStatistics:
    """`stats` if it could have been observed, else ValueError (a file is untrusted input)."""
    whole = (
        stats.samples, stats.count, stats.exponent, stats.first,
        stats.low_sum, stats.low_square, stats.high_sum, stats.high_square,
    )  # fmt: skip
    if not all(type(value) is int for value in whole):
        raise ValueError("a count or sum is not a whole number")
    if stats.counts.dtype != np.int64 or stats.counts.ndim != 1:
        raise ValueError("the histogram is not a row of 64-bit counts")
    if stats.samples == 0:
        if stats != TensorStatistics():
            raise ValueError("something was observed of no samples")
        return stats
    _check_extremes(stats)
    _check_histogram(stats)
    for total, square in (
        (stats.low_sum, stats.low_square),
        (stats.high_sum, stats.high_square),
    ):
        _check_moments(stats, total, square)
    return stats


def _check_extremes(stats: TensorStatistics) -> None:
    extremes = (stats.low, stats.high)
    if not all(type(value) is float for value in extremes):
        raise ValueError("an extreme is not a float")
    if not -_FLOAT32_MAX <= stats.low <= stats.high <= _FLOAT32_MAX:
        raise ValueError("the extremes are not finite and in order")
    if any(float(np.float32(value)) != value for value in extremes):
        raise ValueError("an extreme is not a float32 value")


def _check_histogram(stats: TensorStatistics) -> None:
    if stats.exponent != _exponent(max(-stats.low, stats.high)):
        raise ValueError("the histogram's bin width does not suit the extremes")
    ends = [math.trunc(math.ldexp(x, -stats.exponent)) for x in (stats.low, stats.high)]
    if [stats.first, stats.first + stats.counts.size - 1] != ends:
        raise ValueError("the histogram does not reach from one extreme to the other")
    if (stats.counts < 0).any() or stats.counts[0] == 0 or stats.counts[-1] == 0:
        raise ValueError("the histogram has a negative count or an empty end")
    # A sum in Python's integers, since 64 bits could wrap.
    if sum(stats.counts.tolist()) != stats.count or not 0 < stats.samples <= stats.count:
        raise ValueError("the histogram does not add up to the number of values")


def _check_moments(stats: TensorStatistics, total: int, square: int) -> None:
    """Whether `samples` numbers between the extremes can have this sum and sum of squares."""
    low, high = _units(stats.low), _units(stats.high)
    possible = (
        stats.samples * low <= total <= stats.samples * high
        and total * total <= stats.samples * square
        and square <= stats.samples * max(low * low, high * high)
    )
    if not possible:
        raise ValueError("the moments of the ranges do not suit the extremes")
