"""Where the values of a tensor lie, in whatever shape and order its reader sees them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from intact.engine.program import BYTES, Tensor

__all__ = ["Axis", "Digits", "View", "walk"]

# Count and stride of each digit of an index, the most significant first. An axis that was made of
# several (by a reshape) keeps them apart where no single stride leads from value to value.
Digits = tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class View:
    """A tensor seen with other axes, from `offset` on; strides and offset in values."""

    tensor: Tensor
    axes: tuple[Digits, ...]
    offset: int = 0

    @staticmethod
    def of(tensor: Tensor) -> "View":
        """The tensor as it is."""
        pairs = zip(tensor.shape, tensor.strides, strict=True)
        return View(tensor, tuple(((n, s),) for n, s in pairs))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(prod(count for count, _ in digits) for digits in self.axes)

    @property
    def strides(self) -> tuple[int, ...] | None:
        """From index to index of each axis, if one stride can say it."""
        merged = [_merged(digits) for digits in self.axes]
        if any(len(digits) > 1 for digits in merged):
            return None
        return tuple(digits[0][1] if digits else 0 for digits in merged)

    @property
    def is_dense(self) -> bool:
        """Whether these are all values from the tensor's first to its last, in any order."""
        digits = sorted((d for axis in self.axes for d in axis), key=lambda d: -d[1])
        return self.offset == 0 and _merged(digits) == [(self.tensor.size, 1)]

    @property
    def last(self) -> Digits:
        """The digits of the last axis, those together that one stride can walk."""
        return tuple(_merged(self.axes[-1]))

    def reshaped(self, shape: tuple[int, ...]) -> "View | None":
        """The same values in another shape of as many; None if an axis would cut a digit."""
        rest = list(reversed(_merged(digit for digits in self.axes for digit in digits)))
        axes: list[Digits] = []
        for size in shape:
            digits: list[tuple[int, int]] = []
            while size > 1:
                count, stride = rest.pop()
                if size % count == 0:
                    digits.append((count, stride))
                    size //= count
                elif count % size == 0:
                    digits.append((size, stride * (count // size)))
                    rest.append((count // size, stride))
                    size = 1
                else:
                    return None
            axes.append(tuple(digits))
        return View(self.tensor, tuple(axes), self.offset)

    def transposed(self, order: tuple[int, ...]) -> "View":
        return View(self.tensor, tuple(self.axes[i] for i in order), self.offset)

    def part(self, axis: int, start: int, count: int) -> "View | None":
        """`count` indices of an axis; None if they begin or end within a digit."""
        found = _part(self.axes[axis], start, count)
        if found is None:
            return None
        digits, offset = found
        axes = (*self.axes[:axis], digits, *self.axes[axis + 1 :])
        return View(self.tensor, axes, self.offset + offset)

    def repeated(self, axis: int, count: int) -> "View":
        """Every value of an axis of length 1 `count` times."""
        axes = (*self.axes[:axis], ((count, 0),), *self.axes[axis + 1 :])
        return View(self.tensor, axes, self.offset)

    def places(self, axis: int) -> NDArray[np.int64]:
        """Where each index of an axis lies, counted from its first."""
        places = np.zeros(1, np.int64)
        for count, stride in self.axes[axis]:
            places = (places[:, None] + np.arange(count) * stride).reshape(-1)
        return places

    def fills(self, tensor: Tensor) -> bool:
        """Whether `tensor`, all of its storage, holds these values in its own order."""
        size = tensor.size * BYTES[tensor.dtype]
        whole = self.offset == 0 and size == tensor.storage.bytes
        pairs = zip(self.axes, View.of(tensor).axes, strict=True)
        return whole and all(_merged(a) == _merged(b) for a, b in pairs)


def _merged(digits: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The digits, those together that one stride can walk."""
    merged: list[tuple[int, int]] = []
    for count, stride in digits:
        if count == 1:
            continue
        if merged and merged[-1][1] == count * stride:
            merged[-1] = (merged[-1][0] * count, stride)
        else:
            merged.append((count, stride))
    return merged


def _part(digits: Digits, start: int, count: int) -> tuple[Digits, int] | None:
    """The digits of `count` indices from `start` on, and where they begin."""
    if not digits:
        return (), 0
    (_, stride), *inner = digits
    size = prod(n for n, _ in inner)
    first, rest = divmod(start, size)
    if rest == 0 and count % size == 0:
        return ((count // size, stride), *inner), first * stride
    if rest + count > size:
        return None
    found = _part(tuple(inner), rest, count)
    return None if found is None else (found[0], found[1] + first * stride)


@dataclass(frozen=True)
class Axis:
    """One loop of a copy from x to y.

    offsets: where each index is read in x, -1 for nowhere; None where a stride says it.
    """

    count: int
    x_stride: int
    y_stride: int
    offsets: NDArray[np.int64] | None = None


def walk(x: View, strides: tuple[int, ...], indices: Mapping[int, NDArray[np.int64]]) -> list[Axis]:
    """The loops that copy x to where y has `strides`, those together that need one only.

    indices: axis -> which index of x each index of y takes; -1 for none.
    """
    axes: list[Axis] = []
    for i, digits in enumerate(x.axes):
        inner = strides[i]
        if i in indices:
            places = np.where(indices[i] < 0, -1, x.places(i)[indices[i]])
            axes.append(Axis(places.size, 0, inner, np.ascontiguousarray(places, np.int64)))
            continue
        for count, stride in reversed(digits):
            axes.append(Axis(count, stride, inner))
            inner *= count
    walked: list[Axis] = []
    for axis in sorted(axes, key=lambda a: -a.y_stride):
        if axis.offsets is None and axis.count == 1:
            continue
        last = walked[-1] if walked else None
        if (
            last is not None and last.offsets is None and axis.offsets is None
            and last.x_stride == axis.count * axis.x_stride
            and last.y_stride == axis.count * axis.y_stride
        ):  # fmt: skip
            walked[-1] = Axis(last.count * axis.count, axis.x_stride, axis.y_stride)
        else:
            walked.append(axis)
    return walked or [Axis(1, 1, 1)]
