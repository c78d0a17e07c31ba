"""How fast one model runs, and where its time goes."""

import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intact.core.errors import RuntimeUnavailable
from intact.evaluate.latency import WARM_UP
from intact.run.model import QuantizedModel
from intact.run.native import NativeSession

__all__ = ["bench", "profile", "profile_table", "program_text", "trace"]

Steps = Sequence[tuple[str, float]]


def bench(model: QuantizedModel, batch: int, repetitions: int) -> str:
    """The median and the least milliseconds of a run on a batch of examples."""
    feeds = _examples(model, batch)
    for _ in range(WARM_UP):
        model.run(feeds)
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        model.run(feeds)
        times.append(1e3 * (time.perf_counter() - start))
    native = model.session.native
    where = f"native, {native.isa}" if native else "onnxruntime"
    return (
        f"batch {batch}: median {statistics.median(times):.3f} ms, least {min(times):.3f} ms of "
        f"{repetitions} runs ({where})"
    )


def profile(model: QuantizedModel, batch: int, repetitions: int) -> Steps:
    """Each operator of the native program and its least seconds of many runs, in order.

    Raises RuntimeUnavailable if the native engine does not run the model.
    """
    return _native(model).profile(_examples(model, batch), repetitions)


def profile_table(steps: Steps) -> str:
    """The operators, the slowest first, with their shares of the whole."""
    total = sum(seconds for _, seconds in steps)
    lines = [
        f"{1e6 * seconds:10.1f} us {100 * seconds / total:5.1f} %  {label}"
        for label, seconds in sorted(steps, key=lambda step: -step[1])
    ]
    return "\n".join([*lines, f"{1e6 * total:10.1f} us 100.0 %  {len(steps)} operators"])


def trace(steps: Steps) -> str:
    """The operators one after another as JSON of Chrome's trace event format."""
    events: list[dict[str, Any]] = []
    start = 0.0
    for label, seconds in steps:
        kind, _, name = label.partition(" ")
        events.append(
            {
                "name": name, "cat": kind, "ph": "X", "ts": 1e6 * start, "dur": 1e6 * seconds,
                "pid": 0, "tid": 0, "args": {"operator": kind},
            }
        )  # fmt: skip
        start += seconds
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"})


def program_text(model: QuantizedModel) -> str:
    """The native program for one example, an operator a line, and what runs elsewhere.

    Raises RuntimeUnavailable if the native engine does not run the model.
    """
    found = _native(model).executable(model.signature.example())
    counted = f"{len(found.instructions)} operators in an arena of {found.arena:,} bytes"
    return "\n".join([*found.lines, counted])


def _native(model: QuantizedModel) -> NativeSession:
    model.session.settle(model.signature.example())
    if model.session.native is None:
        raise RuntimeUnavailable(
            model.session.refusal or "the model runs in ONNX Runtime, which has no program to show"
        )
    return model.session.native


def _examples(model: QuantizedModel, batch: int) -> dict[str, NDArray[Any]]:
    """A batch of examples, where the model's first axis is the batch."""
    feeds = model.signature.example()
    named = {s.name for s in model.signature.inputs if s.shape and isinstance(s.shape[0], str)}
    return {
        name: np.repeat(array, batch, axis=0) if name in named else array
        for name, array in feeds.items()
    }
