"""Whether the calibration data was enough."""

from dataclasses import dataclass
from typing import Final

from intact.core.ranges import METHODS, Method
from intact.core.statistics import Statistics, TensorStatistics

__all__ = ["Adequacy", "adequacy"]

# With fewer samples in a half than this its ranges say little about the other's.
_FEWEST_SAMPLES: Final = 4


@dataclass(frozen=True)
class Adequacy:
    """What calibration saw, and whether more of it would change the ranges.

    samples: observed in all.
    unreached: values that no sample reached; constant: values that never varied.
    unstable: value -> how far the ranges of two halves of the samples lie apart, as a share of
        the range of both, where that is more than `tolerance`.
    tolerance: the limit that was applied.
    """

    samples: int
    unreached: tuple[str, ...]
    constant: tuple[str, ...]
    unstable: dict[str, float]
    tolerance: float

    @property
    def enough(self) -> bool:
        """Whether every range is known and stable."""
        return not (self.unreached or self.constant or self.unstable)

    def __str__(self) -> str:
        if self.enough:
            return f"{self.samples} samples are enough: every range is stable"
        parts = [f"{self.samples} samples are not enough"]
        if self.unreached:
            parts.append("never reached: " + ", ".join(self.unreached))
        if self.constant:
            parts.append("constant: " + ", ".join(self.constant))
        if self.unstable:
            worst = sorted(self.unstable.items(), key=lambda item: -item[1])
            shown = ", ".join(f"{name} ({100 * share:.0f} %)" for name, share in worst[:5])
            more = f" and {len(worst) - 5} more" if len(worst) > 5 else ""
            parts.append(f"ranges of two halves of the data differ: {shown}{more}; give more data")
        return "; ".join(parts)


def adequacy(statistics: Statistics, method: Method = "mse", tolerance: float = 0.25) -> Adequacy:
    """Compare the ranges that two halves of the samples give on their own (split-half stability).

    tolerance: how far they may lie apart, as a share of the range of all samples.
    """
    unreached, constant, unstable = [], [], {}
    for name in statistics.names:
        whole = statistics[name]
        if whole.samples == 0:
            unreached.append(name)
        elif whole.low == whole.high:
            constant.append(name)
        else:
            apart = _apart(whole, [half[name] for half in statistics.halves], method)
            if apart > tolerance:
                unstable[name] = apart
    return Adequacy(statistics.samples, tuple(unreached), tuple(constant), unstable, tolerance)


def _apart(whole: TensorStatistics, halves: list[TensorStatistics], method: Method) -> float:
    """The larger distance between the halves' range ends, as a share of the whole range."""
    if any(half.samples < _FEWEST_SAMPLES for half in halves):
        return 1.0
    choose = METHODS[method]
    low, high = choose(whole)
    (first_low, first_high), (second_low, second_high) = (choose(half) for half in halves)
    width = high - low
    return max(abs(first_low - second_low), abs(first_high - second_high)) / width if width else 0.0
