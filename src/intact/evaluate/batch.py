"""Whether a sample's result depends on what else is in the batch."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from intact.capture.signature import TensorSpec

__all__ = ["batch_dependence"]

Feeds = Mapping[str, NDArray[Any]]


class _Runs(Protocol):
    def run(self, feeds: Feeds) -> list[NDArray[Any]]: ...


def batch_dependence(
    model: _Runs, feeds: Feeds, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> float | None:
    """The largest difference that company makes to a sample, in standard deviations of the output.

    The first sample runs alone, and again beside the others of the batch, whose float inputs are
    ten times as large (a batch of one is beside itself enlarged): a scale that is shared by the
    whole batch then changes. 0 means that results are the same bit for bit. None if the model's
    batch is fixed.
    """
    batch = next((s.shape[0] for s in inputs if s.shape and isinstance(s.shape[0], str)), None)
    if batch is None:
        return None
    batched = {s.name for s in inputs if s.shape and s.shape[0] == batch}
    alone = {n: a[:1] if n in batched else a for n, a in feeds.items()}
    company = {}
    for name, array in feeds.items():
        if name not in batched:
            company[name] = array
            continue
        others = array[1:] if len(array) > 1 else array
        enlarged = others * array.dtype.type(10) if array.dtype.kind == "f" else others
        company[name] = np.concatenate([array[:1], enlarged])
    worst = 0.0
    for spec, single, joined in zip(outputs, model.run(alone), model.run(company), strict=True):
        if spec.shape and batch in spec.shape and single.dtype.kind == "f":
            beside = joined.take([0], spec.shape.index(batch))
            deviation = float(single.std()) or 1.0
            worst = max(worst, float(np.abs(single - beside).max(initial=0.0)) / deviation)
    return worst
