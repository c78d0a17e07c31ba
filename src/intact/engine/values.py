"""What a value of the graph is while it is being compiled.

A value that is only described (a dequantized tensor, a convolution that nobody has read yet) costs
nothing: its reader decides what is computed. So a convolution that QuantizeLinear reads becomes an
integer operator, whatever activation stands between the two.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intact.core.qparams import Dtype, QParams, dequantize
from intact.engine.program import Quantization, Tensor, Windows
from intact.engine.view import View

__all__ = [
    "Channelwise",
    "Constant",
    "Dequantized",
    "Direction",
    "Function",
    "Gated",
    "Grouped",
    "Joined",
    "Looked",
    "Maximum",
    "Mean",
    "NotANumber",
    "Opaque",
    "Probabilities",
    "Product",
    "Resampled",
    "Rows",
    "Scaled",
    "Scores",
    "Seen",
    "Spread",
    "Stored",
    "Sum",
    "Value",
    "spread_columns",
]


class Value(ABC):
    """A value of the graph. shape: as the graph has it."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, eq=False)
class Constant(Value):
    """Known before anything runs; scale and zero_point where it holds integers of a real tensor."""

    array: NDArray[Any]
    scale: NDArray[np.float32] | None = None
    zero_point: NDArray[Any] | None = None
    axis: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def real(self) -> NDArray[Any]:
        """The array, dequantized where it holds integers of a real tensor."""
        if self.scale is None:
            return self.array
        points = (
            np.zeros(self.scale.shape, np.int32) if self.zero_point is None else self.zero_point
        )
        dtype: Dtype = self.array.dtype.name  # type: ignore[assignment]
        return dequantize(self.array, QParams(self.scale, points, dtype, self.axis))


@dataclass(frozen=True, eq=False)
class Opaque(Value):
    """An input of which only the shape matters here."""

    known_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.known_shape


@dataclass(frozen=True, eq=False)
class Stored(Value):
    """float32 or int64 in memory, seen by any strides (in values) from `offset` on."""

    tensor: Tensor
    known_shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    @staticmethod
    def of(tensor: Tensor) -> "Stored":
        """The tensor as it lies in memory."""
        return Stored(tensor, tensor.shape, tensor.strides)

    @property
    def lies_as_images(self) -> bool:
        """Whether these are images with their channels last, from the beginning on."""
        images = Tensor(self.tensor.storage, self.shape, "float32", len(self.shape) > 2)
        return images.images and self.lies_as(Stored.of(images))

    @property
    def view(self) -> View:
        pairs = zip(self.shape, self.strides, strict=True)
        return View(self.tensor, tuple(((n, s),) for n, s in pairs), self.offset)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.known_shape

    def lies_as(self, other: "Stored") -> bool:
        """Whether both have the same values at the same places from the beginning on."""
        pairs = zip(self.shape, self.strides, other.strides, strict=True)
        return self.offset == other.offset and all(n == 1 or a == b for n, a, b in pairs)


@dataclass(frozen=True, eq=False)
class Dequantized(Value):
    """uint8 in memory, and what the integers stand for."""

    tensor: Tensor
    quantization: Quantization

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def view(self) -> View:
        return View.of(self.tensor)


@dataclass(frozen=True, eq=False)
class Seen(Value):
    """uint8 in memory that its reader has to see, or to copy, in another order."""

    view: View
    quantization: Quantization

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape


@dataclass(frozen=True, eq=False)
class Looked(Value):
    """Rows of a table, chosen by indices that are known at run time.

    table: [rows, ...] of float32, or of 8-bit integers that stand for
        (integer - zero_point) * scale. scale: one, or one a row.
    real: whether floats are meant, and not the integers themselves.
    """

    label: str
    table: NDArray[Any]
    indices: Stored
    real: bool
    scale: NDArray[np.float32] | None = None
    zero_point: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.indices.shape, *self.table.shape[1:])


@dataclass(frozen=True, eq=False)
class Rows:
    """The scale and zero point, computed at run time, of each row or image of a tensor."""

    scales: Tensor
    zero_points: Tensor


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction of a recurrence.

    inputs: the input's share [time, batch, gates * hidden] and the initial states [batch, hidden];
    outputs: h at all times [time, batch, hidden] and the final states.
    name: of the constants, for packing them once. weights: of the state [gates, hidden, hidden],
    int8 where there is a scale [gates * hidden]; bias: that of the state's share.
    """

    inputs: tuple[Stored, ...]
    outputs: tuple[Stored, ...]
    reverse: bool
    name: str
    weights: NDArray[Any]
    scale: NDArray[np.float32] | None
    bias: NDArray[np.float32] | None


@dataclass(frozen=True, eq=False)
class Product(Value):
    """A convolution or matrix product of integers, whose sums nobody has finished yet.

    weights: int8 [groups, K, N]. bias: int64 [columns] at scale `scale`. scale: [columns].
    rows: for a dynamic product; `scale` is that of the weights alone then.
    low, high: an activation that only clamps, before anything else.
    shift, function, other, bounds: float32 [columns] added, a function (op type, alpha, beta)
        applied, a tensor added, the result clamped, in this order.
    """

    label: str
    x: Tensor
    x_zero_point: int
    windows: Windows
    weights: NDArray[np.int8]
    bias: NDArray[np.int64]
    scale: NDArray[np.float32]
    out_shape: tuple[int, ...]
    name: str
    images: bool
    rows: Rows | None = None
    low: float = -inf
    high: float = inf
    shift: NDArray[np.float32] | None = None
    function: tuple[str, float, float] | None = None
    other: Tensor | None = None
    bounds: tuple[float, float] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_shape

    @property
    def integer(self) -> bool:
        """Whether QuantizeLinear can finish the sums without a float in between."""
        return self.rows is None and self.shift is None and not self.function and not self.other

    @property
    def clamps(self) -> bool:
        return self.low > -inf or self.high < inf

    def clamped(self, low: float, high: float) -> "Product":
        return replace(self, low=max(self.low, low), high=min(self.high, high))


@dataclass(frozen=True, eq=False)
class Function(Value):
    """A function of each value of `x`; `function` is computed in float64."""

    label: str
    x: Dequantized | Stored
    op_type: str
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape


@dataclass(frozen=True, eq=False)
class Spread(Value):
    """A product's columns spread over the pixels of its image: a transposed convolution.

    product: [N, groups * phases * channels of a group, H, W].
    stride: how many rows and columns of the result each pixel becomes; the phases are as many.
    padding: rows and columns that the result leaves out at the beginning.
    """

    product: Product
    groups: int
    stride: tuple[int, int]
    padding: tuple[int, int]
    out_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_shape

    def columns(self, values: NDArray[Any]) -> NDArray[Any]:
        """Of numbers for each channel of the result, those for each column of the product."""
        return spread_columns(values, self.groups, self.stride)

    def clamped(self, low: float, high: float) -> "Spread":
        return replace(self, product=self.product.clamped(low, high))


def spread_columns(values: NDArray[Any], groups: int, stride: tuple[int, int]) -> NDArray[Any]:
    """A number for each channel, repeated for every phase of its group."""
    phases = stride[0] * stride[1]
    grouped = values.reshape(groups, 1, -1)
    return np.ascontiguousarray(
        np.broadcast_to(grouped, (groups, phases, grouped.shape[2]))
    ).reshape(-1)


@dataclass(frozen=True, eq=False)
class Sum(Value):
    """a + sign * b of one shape."""

    label: str
    a: Dequantized
    b: Dequantized
    sign: float = 1.0
    low: float = -inf
    high: float = inf

    @property
    def shape(self) -> tuple[int, ...]:
        return self.a.shape

    def clamped(self, low: float, high: float) -> "Sum":
        return replace(self, low=max(self.low, low), high=min(self.high, high))


@dataclass(frozen=True, eq=False)
class Gated(Value):
    """a times b: of the same shape, or a value of b for each image and channel."""

    label: str
    a: Dequantized
    gate: Dequantized

    @property
    def shape(self) -> tuple[int, ...]:
        return self.a.shape


@dataclass(frozen=True, eq=False)
class Channelwise(Value):
    """x * factor + shift, and that times slope where it is negative.

    factor, shift, slope: float32, one number for each channel; channels lie last in memory.
    low, high: clamped then. function: applied then, of floats alone.
    """

    label: str
    x: Dequantized | Stored
    factor: NDArray[np.float32]
    shift: NDArray[np.float32]
    slope: NDArray[np.float32]
    low: float = -inf
    high: float = inf
    function: tuple[str, float, float] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    def clamped(self, low: float, high: float) -> "Channelwise":
        return replace(self, low=max(self.low, low), high=min(self.high, high))


@dataclass(frozen=True, eq=False)
class Resampled(Value):
    """Pixels mixed of their neighbours, along the height and then along the width.

    rows, columns: indices and weights, each [values, taps].
    """

    label: str
    x: Dequantized | Stored
    rows: tuple[NDArray[np.int64], NDArray[np.float32]]
    columns: tuple[NDArray[np.int64], NDArray[np.float32]]
    out_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_shape


@dataclass(frozen=True, eq=False)
class Mean(Value):
    """The means of windows; `counts` is what each divides by."""

    label: str
    x: Dequantized | Stored
    windows: Windows
    counts: NDArray[np.float32]
    out_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_shape


@dataclass(frozen=True, eq=False)
class Maximum(Value):
    """The largest values of windows."""

    label: str
    x: Dequantized | Stored
    windows: Windows
    out_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.out_shape


@dataclass(frozen=True, eq=False)
class Joined(Value):
    """Parts one after another along an axis."""

    label: str
    parts: tuple[Dequantized | Seen, ...]
    axis: int

    @property
    def shape(self) -> tuple[int, ...]:
        size = sum(part.shape[self.axis] for part in self.parts)
        first = self.parts[0].shape
        return (*first[: self.axis], size, *first[self.axis + 1 :])


@dataclass(frozen=True, eq=False)
class Scaled(Value):
    """x times a number."""

    x: Stored
    factor: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape


@dataclass(frozen=True, eq=False)
class Scores(Value):
    """q times k transposed times `factor`, plus a mask: [..., queries, keys] of each head.

    q: [..., queries, width]; k: [..., keys, width]; adjacent in the last axis.
    mask: [masks, heads, queries, keys], or 1 for each; the i-th of a batch gets mask i % masks.
    """

    label: str
    q: Stored
    k: Stored
    factor: float
    mask: Stored | Constant | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.q.shape[:-1], self.k.shape[-2])


@dataclass(frozen=True, eq=False)
class Grouped(Value):
    """Scores [batch, heads, queries, keys] with their batch as two axes: of images and windows."""

    scores: Scores
    known_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.known_shape


@dataclass(frozen=True, eq=False)
class Probabilities(Value):
    """The softmax of scores over the keys. empty_is_zero: zeros instead of NaN without any key."""

    scores: Scores
    empty_is_zero: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.scores.shape


@dataclass(frozen=True, eq=False)
class NotANumber(Value):
    """Where probabilities are NaN."""

    of: Probabilities

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of.shape
