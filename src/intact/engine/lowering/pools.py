"""Pools and reductions."""

from math import prod
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute, known, table_of
from intact.engine.lowering.products import spatial_of, windows_of
from intact.engine.program import Unsupported, Windows, new_tensor
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
    x, given = (*read, None)[:2]
    if x is None:
        raise Unsupported(f"operator '{node.name}' reads nothing")
    rank = len(x.shape)
    axes = list(range(rank))
    if given is not None:
        axes = sorted({int(a) % rank for a in known(given, node).array.reshape(-1)})
    keep = bool(attribute(node, "keepdims", 1))
    image = node.op_type == "ReduceMean" and rank == 4 and axes == [2, 3]
    if not isinstance(x, Dequantized):
        x = realize(x, state)
    if not image or (isinstance(x, Dequantized) and not x.tensor.images):
        return _reduce_floats(node, realize(x, state), axes, keep, state)
    n, c, h, w = x.shape
    windows = Windows(n, h, w, c, 1, 1, (h, w))
    counts = np.full(1, h * w, np.float32)
    return Mean(str(node.name), x, windows, counts, (n, c, *((1, 1) if keep else ())))


def _reduce_floats(node: ir.Node, x: Stored, axes: list[int], keep: bool, state: State) -> Value:
    """One window for all that is reduced, over as many channels as lie behind it."""
    if not axes:
        if attribute(node, "noop_with_empty_axes", 0):
            return x
        axes = list(range(len(x.shape)))
    kept = [i for i in range(len(x.shape)) if i not in axes]
    inner = [i for i in kept if i > axes[-1]]
    order = [i for i in kept if i not in inner] + axes + inner
    moved = Stored(
        x.tensor, tuple(x.shape[i] for i in order), tuple(x.strides[i] for i in order), x.offset
    )
    tensor = state.contiguous(moved, str(node.name))
    count, channels = (prod(x.shape[i] for i in part) for part in (axes, inner))
    y = new_tensor(
        tuple(1 if i in axes else n for i, n in enumerate(x.shape) if keep or i in kept), "float32"
    )
    windows = Windows(y.size // channels, count, 1, channels, 1, 1, (count, 1))
    divisors = {"ReduceMax": None, "ReduceMean": count, "ReduceSum": 1}
    divisor = divisors[node.op_type]
    state.add(
        "real_pool", str(node.name), y, (tensor,), windows=windows.sizes,
        counts=None if divisor is None else np.full(1, divisor, np.float32),
    )  # fmt: skip
    return Stored.of(y)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    **table_of(("ReduceMax", "ReduceMean", "ReduceSum"), _reduce),
    **table_of(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
}
