"""Latency as ratios: all models interleaved in one run, medians of many."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["interleaved", "speedup"]

WARM_UP = 3  # runs before anything is timed: memory is allocated and threads started in them
# Threads of a runtime wait for more work by spinning for a while, which would cost the next one.
PAUSE = 0.005  # seconds


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    repetitions: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of each repetition of each run, taken in turn, so that noise hits all alike.

    Each timed run follows a pause and an untimed run of the same, so that none pays for what the
    one before left in caches and in spinning threads.
    """
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(repetitions):
        for name, run in runs.items():
            time.sleep(PAUSE)
            run()
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
        if progress is not None:
            progress(i + 1)
    return times


def speedup(reference: Sequence[float], times: Sequence[float]) -> float:
    """How many times faster: the median of the ratios of repetitions taken side by side."""
    return statistics.median(a / b for a, b in zip(reference, times, strict=True))
