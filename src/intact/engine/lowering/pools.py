"""Pools and concatenation of channels."""

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, attribute, known, table_of
from intact.engine.lowering.products import spatial_of, windows_of
from intact.engine.program import Unsupported, Windows
from intact.engine.state import State
from intact.engine.values import Dequantized, Maximum, Mean, Value

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


def _reduce_mean(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, axes = (*read, None)[:2]
    if x is None or len(x.shape) != 4 or axes is None:
        raise Unsupported(f"operator '{node.name}' reduces what is no image")
    if not isinstance(x, Dequantized):
        x = realize(x, state)
    elif not x.tensor.images:
        raise Unsupported(f"operator '{node.name}' reduces what is no image")
    if sorted(a % 4 for a in known(axes, node).array.reshape(-1).tolist()) != [2, 3]:
        raise Unsupported(f"operator '{node.name}' reduces other axes than an image's")
    n, c, h, w = x.shape
    kept = (1, 1) if attribute(node, "keepdims", 1) else ()
    windows = Windows(n, h, w, c, 1, 1, (h, w))
    return Mean(str(node.name), x, windows, np.full(1, h * w, np.float32), (n, c, *kept))


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {
    ("", "ReduceMean"): _reduce_mean,
    **table_of(("AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool"), _pool),
}
