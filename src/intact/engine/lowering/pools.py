"""Pools and reductions."""

from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.finish import quantize, realize
from intact.engine.lowering.common import Lowering, attribute, known, table_of
from intact.engine.lowering.moves import transpose
from intact.engine.lowering.products import spatial_of, windows_of
from intact.engine.program import Tensor, Unsupported, Windows, new_tensor
from intact.engine.state import State
from intact.engine.values import Dequantized, Maximum, Mean, Stored, Value

__all__ = ["LOWERINGS"]


def _pool(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x = read[0]
    if x is None or (isinstance(x, Dequantized) and not x.tensor.images):
        raise Unsupported(f"operator '{node.name}' pools what is no image")
    if not isinstance(x, Dequantized):
        x = realize(x, state)
    n, c, *spatial = x.shape
    whole = node.op_type.startswith("Global")
    if len(spatial) == 3:
        return _pool_volume(node, x, whole, state)
    kernel = tuple(spatial) if whole else tuple(attribute(node, "kernel_shape", ()))
    s = spatial_of(node, tuple(spatial), kernel)
    shape = (n, c, *s["shape"])
    if "Max" in node.op_type:
        if len(node.outputs) > 1:
            raise Unsupported(f"operator '{node.name}' returns indices")
        return Maximum(str(node.name), x, windows_of(x.shape, s), shape)
    counts = _counts(s, bool(attribute(node, "count_include_pad", 0)))
    if not counts.all():
        raise Unsupported(f"operator '{node.name}' has an empty window")
    return Mean(str(node.name), x, windows_of(x.shape, s), counts.astype(np.float32), shape)


def _pool_volume(node: ir.Node, x: Dequantized | Stored, whole: bool, state: State) -> Value:
    """In three dimensions: the whole as one image, or the largest of slices, then across them."""
    n, c, depth, height, width = x.shape
    label, average = str(node.name), "Average" in node.op_type
    if whole:
        windows = Windows(n, depth * height, width, c, 1, 1, (depth * height, width))
        flat, shape = _seen_as(x, (n, c, depth * height, width), state), (n, c, 1, 1, 1)
        if average:
            return Mean(label, flat, windows, np.full(1, depth * height * width, np.float32), shape)
        return Maximum(label, flat, windows, shape)
    if average or len(node.outputs) > 1:
        raise Unsupported(f"operator '{node.name}' averages volumes, or returns indices")
    s = spatial_of(node, (depth, height, width), tuple(attribute(node, "kernel_shape", ())))
    inner = {key: value[1:] for key, value in s.items()}
    out, rows, columns = s["shape"]
    slices = _seen_as(x, (n * depth, c, height, width), state)
    first: Value = Maximum(
        label, slices, windows_of(slices.shape, inner), (n * depth, c, rows, columns)
    )
    if isinstance(x, Dequantized):
        flat = Dequantized(quantize(first, x.quantization, True, label, state), x.quantization)
    else:
        flat = realize(first, state)
    across = Windows(
        n, depth, rows * columns, c, out, rows * columns, (s["kernel"][0], 1),
        (s["stride"][0], 1), (s["dilation"][0], 1), (s["padding"][0], 0),
    )  # fmt: skip
    return Maximum(
        label, _seen_as(flat, (n, c, depth, rows * columns), state), across, (n, c, *s["shape"])
    )


def _seen_as(x: Dequantized | Stored, shape: tuple[int, ...], state: State) -> Dequantized | Stored:
    """The same memory, channels last, as other images of as many pixels."""
    if isinstance(x, Dequantized):
        return Dequantized(Tensor(x.tensor.storage, shape, "uint8", True), x.quantization)
    tensor = state.images(x, "volume")
    return Stored.of(Tensor(tensor.storage, shape, "float32", True))


def _counts(s: dict[str, Any], with_padding: bool) -> NDArray[np.int64]:
    """What each window's sum is divided by."""
    axes = []
    for i in range(2):
        reach = np.arange(s["kernel"][i]) * s["dilation"][i]
        at = np.arange(s["out"][i])[:, None] * s["stride"][i] - s["padding"][i] + reach
        begin = -s["padding"][i] if with_padding else 0
        end = s["spatial"][i] + (s["ends"][i] if with_padding else 0)
        axes.append(((at >= begin) & (at < end)).sum(axis=1))
    return np.asarray(np.multiply.outer(*axes), np.int64)


def _reduce(node: ir.Node, read: list[Value | None], state: State) -> Value:
    """ReduceMean, ReduceMax, ReduceSum."""
    x, axes = (*read, None)[:2]
    if x is None:
        raise Unsupported(f"operator '{node.name}' reads nothing")
    rank = len(x.shape)
    listed = [] if axes is None else known(axes, node).array.reshape(-1).tolist()
    if not listed and attribute(node, "noop_with_empty_axes", 0):
        return x
    reduced = sorted({a % rank for a in listed}) or list(range(rank))
    keeps = bool(attribute(node, "keepdims", 1))
    shape = tuple(
        1 if i in reduced else n for i, n in enumerate(x.shape) if keeps or i not in reduced
    )
    pixels = node.op_type == "ReduceMean" and rank == 4 and reduced == [2, 3]
    if pixels and (not isinstance(x, Dequantized) or x.tensor.images):
        n, c, h, w = x.shape
        pooled = x if isinstance(x, Dequantized) else realize(x, state)
        windows = Windows(n, h, w, c, 1, 1, (h, w))
        return Mean(str(node.name), pooled, windows, np.full(1, h * w, np.float32), shape)
    return _reduce_floats(node, realize(x, state), reduced, shape, state)


def _reduce_floats(
    node: ir.Node, x: Stored, reduced: list[int], shape: tuple[int, ...], state: State
) -> Value:
    """Over any axes: as the pixels of images whose channels are what lies behind them."""
    first, last = reduced[0], reduced[-1]
    if reduced != list(range(first, last + 1)):
        kept = [i for i in range(len(x.shape)) if i not in reduced]
        moved = transpose(x, kept + reduced)
        assert isinstance(moved, Stored)
        x, first, last = moved, len(kept), len(x.shape) - 1
    tensor = state.contiguous(x, str(node.name))
    outer, count = prod(x.shape[:first]), prod(x.shape[first : last + 1])
    inner = prod(x.shape[last + 1 :])
    divisor = {"ReduceMax": None, "ReduceSum": 1}.get(node.op_type, count)
    y = new_tensor(shape, "float32")
    state.add(
        "real_pool", str(node.name), y, (tensor,),
        windows=Windows(outer, count, 1, inner, 1, 1, (count, 1)).sizes,
        counts=None if divisor is None else np.full(1, divisor, np.float32),
    )  # fmt: skip
    return Stored.of(y)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    **table_of(("ReduceMax", "ReduceMean", "ReduceSum"), _reduce),
    **table_of(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
}
