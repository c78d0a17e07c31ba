"""What a program is made of: memory, tensors in it, instructions that read and write them."""

from dataclasses import dataclass, field
from itertools import count
from math import inf, prod
from typing import Any, Final, Literal

import numpy as np

__all__ = [
    "BYTES",
    "PACKED_AS",
    "Dtype",
    "Instruction",
    "Quantization",
    "Storage",
    "Tensor",
    "Unfinished",
    "Unsupported",
    "Windows",
    "new_tensor",
    "row_major",
]


# In an instruction's `name`: between a stored weight's name and how it is packed, where that
# depends on more than the weight.
PACKED_AS: Final = " packed as "


class Unsupported(Exception):
    """The engine cannot compile this; the message says what and why."""


class Unfinished(Unsupported):
    """A value was described that cannot be computed in the form that its reader needs."""


Dtype = Literal["uint8", "int8", "float32", "int64"]

BYTES: Final[dict[Dtype, int]] = {"uint8": 1, "int8": 1, "float32": 4, "int64": 8}

_numbers = count()


@dataclass(eq=False)
class Storage:
    """Memory that one or more tensors share.

    place: ("arena", offset), ("input", index) or ("output", index), once it is known; ("lines", 0)
    for what is never there as a whole (see `chain`).
    """

    bytes: int
    place: tuple[Literal["arena", "input", "output", "lines"], int] | None = None
    number: int = field(default_factory=lambda: next(_numbers))


@dataclass(frozen=True, eq=False)
class Tensor:
    """Values in memory.

    dtype: whole numbers and truth values that are no quantized numbers are int64.

    shape: as the graph has it, [N, C, H, W] for images.
    images: whether the channels come last in memory, [N, H, W, C].
    """

    storage: Storage
    shape: tuple[int, ...]
    dtype: Dtype
    images: bool = False

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def strides(self) -> tuple[int, ...]:
        """From index to index of each axis, in values."""
        if not self.images:
            return row_major(self.shape)
        n, c, *spatial = self.shape
        outer, *inner, last = row_major((n, *spatial, c))
        return (outer, last, *inner)

    def __str__(self) -> str:
        return f"%{self.storage.number}: {self.dtype}[{', '.join(map(str, self.shape))}]"


def new_tensor(shape: tuple[int, ...], dtype: Dtype, images: bool = False) -> Tensor:
    """A tensor in memory of its own."""
    return Tensor(Storage(prod(shape) * BYTES[dtype]), shape, dtype, images)


@dataclass(frozen=True)
class Quantization:
    """One scale and zero point, of uint8. An int8 tensor is held 128 higher, as its zero point."""

    scale: np.float32
    zero_point: int

    def clamp(self, low: float = -inf, high: float = inf) -> tuple[float, float, int]:
        """The bounds, relative to the zero point, of real values between low and high."""
        bounds = []
        for bound, end in ((low, -self.zero_point), (high, 255 - self.zero_point)):
            steps = np.rint(np.float32(bound) / self.scale) if np.isfinite(bound) else end
            bounds.append(float(np.clip(steps, -self.zero_point, 255 - self.zero_point)))
        return bounds[0], bounds[1], self.zero_point


@dataclass(frozen=True)
class Windows:
    """Two-dimensional windows over images, as the native part takes them."""

    images: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (
            self.images, self.height, self.width, self.channels, self.out_height, self.out_width,
            *self.kernel, *self.stride, *self.dilation, *self.padding,
        )  # fmt: skip


@dataclass
class Instruction:
    """One operator of the program.

    kind: the name of the native step. label: the graph's name of it.
    outputs, inputs: what it writes and reads. parameters: the rest, as the step takes it.
    chained: whether the next instruction runs together with it, a few lines at a time.
    """

    kind: str
    label: str
    outputs: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    parameters: dict[str, Any]
    chained: bool = False

    @property
    def output(self) -> Tensor:
        """The first of what it writes."""
        return self.outputs[0]

    def __str__(self) -> str:
        shown = {
            key: value if isinstance(value, (int, float, str, tuple)) else "..."
            for key, value in self.parameters.items()
            if value is not None
        }
        arguments = ", ".join(f"%{tensor.storage.number}" for tensor in self.inputs)
        details = ", ".join(f"{key}={value}" for key, value in shown.items())
        written = ", ".join(map(str, self.outputs))
        lines = ", lines of it at a time" if self.chained else ""
        return f"{written} = {self.kind}({arguments}; {details})  # {self.label}{lines}"


def row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The strides, in values, of a tensor whose last axis is adjacent."""
    return tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
