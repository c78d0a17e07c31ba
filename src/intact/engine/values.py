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
from intact.engine.program import Quantization, Tensor, Windows, row_major

__all__ = [
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
    "Rows",
    "Scaled",
    "Scores",
    "Stored",
    "Sum",
    "Value",
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
        if not tensor.images:
            return Stored(tensor, tensor.shape, row_major(tensor.shape))
        n, c, *spatial = tensor.shape
        outer, *inner, last = row_major((n, *spatial, c))
        return Stored(tensor, tensor.shape, (outer, last, *inner))

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
class Sum(Value):
    """a + b of one shape."""

    label: str
    a: Dequantized
    b: Dequantized
    low: float = -inf
    high: float = inf

    @property
    def shape(self) -> tuple[int, ...]:
        return self.a.shape

    def clamped(self, low: float, high: float) -> "Sum":
        return replace(self, low=max(self.low, low), high=min(self.high, high))


@dataclass(frozen=True, eq=False)
class Gated(Value):
    """a times a value for each image and channel."""

    label: str
    a: Dequantized
    gate: Dequantized

    @property
    def shape(self) -> tuple[int, ...]:
        return self.a.shape


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
    """Parts one after another along the channels."""

    label: str
    parts: tuple[Dequantized, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        first, *rest = self.parts
        channels = first.shape[1] + sum(part.shape[1] for part in rest)
        return (first.shape[0], channels, *first.shape[2:])


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
