"""Values moved into the order that a reader wants."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic import table
from intact.core.arithmetic.pointwise import Function
from intact.core.qparams import QParams
from intact.engine.program import Quantization, Tensor, Unsupported, new_tensor
from intact.engine.state import State
from intact.engine.values import Dequantized, Seen, Stored

__all__ = ["dequantize", "join", "lookup_table", "plain", "settled", "take"]


def settled(x: Seen) -> Dequantized | Seen:
    """x without a view, if its values already lie as a tensor's."""
    for images in (True, False):
        if images and len(x.shape) < 3:
            continue
        tensor = Tensor(x.view.tensor.storage, x.shape, "uint8", images)
        if x.view.fills(tensor):
            return Dequantized(tensor, x.quantization)
    return x


def plain(x: Dequantized | Seen, images: bool, label: str, state: State) -> Dequantized:
    """The integers as a tensor of their own: channels last (`images`), or in their own order.

    Copied once for all readers.
    """
    images = images and len(x.shape) > 2
    if isinstance(x, Dequantized) and x.tensor.images == images:
        return x
    view = x.view
    tensor = Tensor(view.tensor.storage, x.shape, "uint8", images)
    if not view.fills(tensor):
        tensor = state.copied(view, images, label)
    return Dequantized(tensor, x.quantization)


def take(
    x: Dequantized | Seen | Stored,
    indices: Mapping[int, NDArray[np.int64]],
    fill: float,
    label: str,
    state: State,
) -> Dequantized | Stored:
    """The values at some indices of some axes, of which -1 stands for the fill (a real value).

    A fill other than zero is for floats alone.
    """
    shape = tuple(indices[i].size if i in indices else n for i, n in enumerate(x.shape))
    view = x.view
    images = len(shape) > 2 and view.axes[1] in (((x.shape[1], 1),), ())
    if isinstance(x, Stored):
        whole = x.tensor.dtype == "int64"
        bits = np.int64(fill).view(np.uint64) if whole else np.float32(fill).view(np.uint32)
        y = new_tensor(shape, x.tensor.dtype, images)
        return Stored.of(state.move(view, y, label, indices=indices, fill=int(bits)))
    assert fill == 0  # others have no integer of their own
    y = new_tensor(shape, "uint8", images)
    point = x.quantization.zero_point
    return Dequantized(state.move(view, y, label, indices=indices, fill=point), x.quantization)


def join(parts: Sequence[Stored], axis: int, label: str, state: State) -> Stored:
    """Floats or whole numbers one after another along an axis."""
    dtype, shape = parts[0].tensor.dtype, list(parts[0].shape)
    if any(part.tensor.dtype != dtype for part in parts):
        raise Unsupported(f"'{label}' joins tensors of two types")
    for part in parts:
        if any(n != m for i, (n, m) in enumerate(zip(part.shape, shape, strict=True)) if i != axis):
            raise Unsupported(f"'{label}' joins tensors of two shapes")
    shape[axis] = sum(part.shape[axis] for part in parts)
    images = len(shape) > 2 and all(part.lies_as_images for part in parts)
    y = new_tensor(tuple(shape), dtype, images)
    offset = 0
    for part in parts:
        state.move(part.view, y, label, offset=offset)
        offset += part.shape[axis] * y.strides[axis]
    return Stored.of(y)


def dequantize(x: Dequantized, images: bool, state: State) -> Tensor:
    """In float32, as an image with its channels last or in the order of the graph."""
    y = new_tensor(x.shape, "float32", images)
    reorders = x.tensor.images and not images
    outer, channels = x.shape[:2] if reorders else (1, 1)
    return state.add(
        "dequantize", "output", y, (x.tensor,), images=outer, channels=channels,
        pixels=y.size // (outer * channels), scale=float(x.quantization.scale),
        zero_point=x.quantization.zero_point,
    )  # fmt: skip


def lookup_table(function: Function, x: Quantization, y: Quantization) -> NDArray[np.uint8]:
    """The integer of y for a function of each integer of x."""
    parameters = [
        QParams(np.asarray(q.scale), np.asarray(q.zero_point, np.int32), "uint8") for q in (x, y)
    ]
    with np.errstate(all="ignore"):  # what is infinite becomes a bound
        return np.asarray(table(function, *parameters), np.uint8)
