"""What is collected while a graph is lowered, and how values get into memory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intact.engine.program import (
    BYTES,
    Dtype,
    Instruction,
    Storage,
    Tensor,
    Unsupported,
    new_tensor,
)
from intact.engine.values import Rows, Stored
from intact.engine.view import Digits, View, walk

__all__ = ["State", "reshaped"]


@dataclass
class State:
    """The instructions so far.

    constants: arrays that the program reads as inputs, behind those of the model.
    inputs: the number of the model's inputs.
    _copies: in the order that readers want, by where the values lay.
    """

    inputs: int
    program: list[Instruction] = field(default_factory=list)
    constants: list[tuple[Tensor, NDArray[Any]]] = field(default_factory=list)
    _copies: dict[tuple[Storage, tuple[Digits, ...], int, bool], Tensor] = field(
        default_factory=dict
    )
    _rows: dict[tuple[Storage, int, bool], tuple[Tensor, Rows]] = field(default_factory=dict)

    def add(
        self, kind: str, label: str, output: Tensor, inputs: Sequence[Tensor], **parameters: Any
    ) -> Tensor:
        """Add an instruction; its output."""
        self.program.append(Instruction(kind, label, (output,), tuple(inputs), parameters))
        return output

    def constant(self, array: NDArray[Any], dtype: Dtype = "float32") -> Stored:
        """A constant in memory: where it lies, if it is of that type already."""
        tensor = new_tensor(array.shape, dtype)
        tensor.storage.place = ("input", self.inputs + len(self.constants))
        self.constants.append((tensor, np.require(array, dtype, ("C", "A"))))
        return Stored.of(tensor)

    def contiguous(self, x: Stored, label: str) -> Tensor:
        """The values in the order of their indices, copied if they do not lie so."""
        return self._arranged(x, new_tensor(x.shape, x.tensor.dtype), label)

    def images(self, x: Stored, label: str) -> Tensor:
        """The values [N, C, H, W] with the channels last in memory, copied if they are not."""
        return self._arranged(x, new_tensor(x.shape, x.tensor.dtype, len(x.shape) > 2), label)

    def _arranged(self, x: Stored, wanted: Tensor, label: str) -> Tensor:
        if x.lies_as(Stored.of(wanted)):
            return Tensor(x.tensor.storage, wanted.shape, wanted.dtype, wanted.images)
        return self.copied(x.view, wanted.images, label)

    def copied(self, x: View, images: bool, label: str) -> Tensor:
        """The values as a tensor of their own; copied once for all readers."""
        key = (x.tensor.storage, x.axes, x.offset, images)
        if key not in self._copies:
            self._copies[key] = self.move(x, new_tensor(x.shape, x.tensor.dtype, images), label)
        return self._copies[key]

    def move(
        self,
        x: View,
        y: Tensor,
        label: str,
        *,
        offset: int = 0,
        strides: tuple[int, ...] | None = None,
        indices: Mapping[int, NDArray[np.int64]] | None = None,
        fill: int = 0,
        table: NDArray[np.uint8] | None = None,
    ) -> Tensor:
        """Copy x to y, from `offset` on; y.

        strides: of y, as x has its axes; those of y itself if not given.
        indices: axis -> which index of x each index of y takes; -1 for the fill.
        fill: the bits of a value of x. table: what becomes of each uint8.
        """
        axes = walk(x, strides or y.strides, indices or {})
        return self.add(
            "move", label, y, (x.tensor,), x_offset=x.offset, y_offset=offset, fill=fill,
            axes=tuple((a.count, a.x_stride, a.y_stride) for a in axes), table=table,
            offsets=[a.offsets for a in axes], value_bytes=BYTES[y.dtype],
        )  # fmt: skip

    def quantized_rows(
        self, x: Tensor, rows: int, label: str, images: bool = False
    ) -> tuple[Tensor, Rows]:
        """The integers of each of `rows` equal parts of x by itself; done once for all readers.

        images: whether the channels of x [N, C, ...] come last in the result.
        """
        key = (x.storage, rows, images)
        if key not in self._rows:
            y = new_tensor(x.shape, "uint8", x.images or images)
            found = Rows(*(new_tensor((rows,), "float32") for _ in range(2)))
            channels = x.shape[1] if images and not x.images else 1
            self.program.append(
                Instruction(
                    "quantize_rows", label, (y, found.scales, found.zero_points), (x,),
                    {"rows": rows, "channels": channels, "pixels": x.size // (rows * channels),
                     "extremes": None},
                )
            )  # fmt: skip
            self._rows[key] = (y, found)
        y, found = self._rows[key]
        return Tensor(y.storage, x.shape, "uint8", y.images), found


def reshaped(x: Stored, shape: tuple[int, ...]) -> Stored | None:
    """The same values in another shape, or None if no strides say so."""
    if prod(shape) != prod(x.shape):
        raise Unsupported(f"a reshape of {x.shape} to {shape}")
    # Strides in bytes of one-byte values are strides in values. Nothing is read.
    nothing = np.lib.stride_tricks.as_strided(np.empty(1, np.int8), x.shape, x.strides)
    try:
        strides = nothing.reshape(shape, copy=False).strides
    except ValueError:
        return None
    return Stored(x.tensor, shape, strides, x.offset)
