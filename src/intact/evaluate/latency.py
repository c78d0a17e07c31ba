"""Latency as ratios: all models interleaved in one run, medians of many."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

__all__ = ["interleaved", "speedup"]

WARM_UP = 3  # runs before anything is timed: memory is allocated and threads started in them
# Threads of a runtime wait for more work by spinning for a while (ONNX Runtime's for 26 ms), which
# would cost the next one; and cores that rested take a while to run at their speed again.
PAUSE = 0.03  # seconds
AWAKE = 0.02  # seconds
BURST = 5  # timed runs in a row


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    repetitions: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, list[float]]:
    """Milliseconds of each repetition of each run, taken in turn, so that noise hits all alike.

    A turn is a pause, some untimed runs, and a few timed ones, so that none pays for what the one
    before left in caches and in spinning threads.
    """
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for first in range(0, repetitions, BURST):
        for name, run in runs.items():
            time.sleep(PAUSE)
            awake = time.perf_counter() + AWAKE
            while time.perf_counter() < awake:
                run()
            for _ in range(first, min(first + BURST, repetitions)):
                start = time.perf_counter()
                run()
                times[name].append(1e3 * (time.perf_counter() - start))
        if progress is not None:
            progress(min(first + BURST, repetitions))
    return times


def speedup(reference: Sequence[float], times: Sequence[float]) -> float:
    """How many times faster: the median of the ratios of repetitions taken side by side."""
    return statistics.median(a / b for a, b in zip(reference, times, strict=True))
