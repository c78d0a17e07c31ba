"""Cutting batches into samples, so that what calibration sees does not depend on the batching."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intact.capture.signature import TensorSpec
from intact.core.errors import InputError

__all__ = ["Sample", "join", "split"]

Array = NDArray[Any]
Feeds = Mapping[str, Array]
DEFAULT_MASK = "attention_mask"


@dataclass(frozen=True)
class Sample:
    """One sample of a batch.

    feeds: the model's inputs, with a batch axis of 1 where the batch is dynamic.
    positions: along the masked axis, which of the sample's positions hold data (None: all).
    axis: the name of that axis, and length the number of positions before trailing padding
        was cut off.
    """

    feeds: Feeds
    positions: NDArray[np.intp] | None = None
    axis: str | None = None
    length: int = 0

    @property
    def half(self) -> int:
        """0 or 1, from a checksum of the content: the same sample is always in the same half."""
        checksum = 0
        for name in sorted(self.feeds):
            array = np.ascontiguousarray(self.feeds[name])
            checksum = zlib.crc32(array.data.cast("B"), checksum)
        # The lowest bit of a checksum of near-equal samples is as good as any other.
        return checksum & 1


def split(feeds: Feeds, specs: Sequence[TensorSpec], mask: str | None) -> Iterator[Sample]:
    """The samples of one batch, each without its trailing padding.

    mask: the input (N, positions) that is 0 where a position is padding; None if there is none.
    A model whose batch is fixed takes its whole batch as one sample.
    Raises InputError if a value is NaN or infinite, or if a batch is empty.
    """
    for name, array in feeds.items():
        _require_finite(name, array)
    batch = batch_axis(specs)
    batched = [spec.name for spec in specs if batch is not None and spec.dims[:1] == (batch,)]
    size = feeds[batched[0]].shape[0] if batched else 1
    if size == 0:
        raise InputError(f"input '{batched[0]}' has a batch of 0 samples; give at least one")
    for i in range(size):
        one = {n: a[i : i + 1] if n in batched else a for n, a in feeds.items()}
        sample = Sample(one)
        yield _trimmed(sample, specs, mask) if mask is not None else sample


def batch_axis(specs: Sequence[TensorSpec]) -> str | None:
    """The name of the dynamic batch axis: the first axis of the first input that has one."""
    for spec in specs:
        if isinstance(first := next(iter(spec.dims), None), str):
            return first
    return None


def join(
    outputs: Sequence[Sequence[Array]],
    samples: Sequence[Sample],
    specs: Sequence[TensorSpec],
) -> list[Array]:
    """Per-sample outputs as one batch again; positions that were cut off as padding are 0."""
    joined = []
    for i, spec in enumerate(specs):
        parts = []
        for arrays, sample in zip(outputs, samples, strict=True):
            padding = [
                (0, sample.length - size) if name is not None and name == sample.axis else (0, 0)
                for name, size in zip(spec.dims, arrays[i].shape, strict=False)
            ]
            parts.append(np.pad(arrays[i], padding) if any(map(any, padding)) else arrays[i])
        joined.append(np.concatenate(parts) if len(parts) > 1 and parts[0].ndim else parts[0])
    return joined


def _trimmed(sample: Sample, specs: Sequence[TensorSpec], mask: str) -> Sample:
    """The sample without trailing padding, and which positions are left to observe."""
    shapes = {spec.name: spec.dims for spec in specs}
    if mask not in shapes or len(shapes[mask]) != 2:
        raise InputError(
            f"the mask '{mask}' is not an input of shape (batch, positions); the inputs are "
            + ", ".join(f"'{name}' {shape}" for name, shape in shapes.items())
        )
    kept = np.flatnonzero(sample.feeds[mask][0])
    axis, length = shapes[mask][1], int(sample.feeds[mask].shape[1])
    if kept.size == 0:
        raise InputError(f"the mask '{mask}' hides every position of a sample; leave it out")
    stop = int(kept[-1]) + 1
    if not isinstance(axis, str):
        return replace(sample, positions=None if kept.size == length else kept, length=length)
    feeds = {}
    for name, array in sample.feeds.items():
        index = tuple(slice(0, stop) if dim == axis else slice(None) for dim in shapes[name])
        feeds[name] = array[index]
    return Sample(feeds, None if kept.size == stop else kept, axis, length)


def _require_finite(name: str, array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        first = np.argwhere(~np.isfinite(array))[0].tolist()
        raise InputError(
            f"input '{name}' holds NaN or infinity, first at index {first}; remove that sample"
        )
