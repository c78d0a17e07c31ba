"""Resizing of images, of integers and of floats, with the places and shares of core.arithmetic."""

import math
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.arithmetic.resize import linear_taps, nearest, places
from intact.engine.arrange import plain, take
from intact.engine.lowering.common import Lowering, attribute, known
from intact.engine.lowering.moves import movable
from intact.engine.program import Unsupported
from intact.engine.state import State
from intact.engine.values import Resampled, Stored, Value

__all__ = ["LOWERINGS"]

_COORDINATES: Final = ("half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners")
_LARGEST: Final = 2**20


def _resize(node: ir.Node, read: list[Value | None], state: State) -> Value:
    x, label = movable(read[0], state), str(node.name)
    mode = attribute(node, "mode", "nearest")
    coordinates = attribute(node, "coordinate_transformation_mode", "half_pixel")
    if coordinates not in _COORDINATES:
        raise Unsupported(f"operator '{node.name}' resizes by {coordinates}")
    if attribute(node, "antialias", 0) or attribute(node, "exclude_outside", 0):
        raise Unsupported(f"operator '{node.name}' smooths, or leaves out what lies outside")
    at = {
        axis: (places(x.shape[axis], size, scale, coordinates), x.shape[axis])
        for axis, (size, scale) in _sizes(node, x.shape, read).items()
        if size != x.shape[axis] or scale != 1
    }
    if not at:
        return x
    if mode == "nearest":
        rounding = attribute(node, "nearest_mode", "round_prefer_floor")
        indices = {
            axis: nearest(where, length, rounding).astype(np.int64)
            for axis, (where, length) in at.items()
        }
        return take(x, indices, 0, label, state)
    if min(at) < 2 or not 3 <= len(x.shape) <= 4:
        raise Unsupported(f"operator '{node.name}' mixes other than the pixels of an image")
    if not isinstance(x, Stored):
        x = plain(x, True, label, state)
    cubic = float(attribute(node, "cubic_coeff_a", -0.75)) if mode == "cubic" else None
    taps = [
        _taps(*at.get(axis, (list(range(n)), n)), cubic)
        for axis, n in enumerate(x.shape)
        if axis > 1
    ]
    one = [_taps([0.0], 1, None)]
    rows, columns = one * (2 - len(taps)) + taps
    shape = (*x.shape[:2], *(len(index) for index, _ in taps))
    return Resampled(label, x, rows, columns, shape)


def _sizes(
    node: ir.Node, shape: tuple[int, ...], read: list[Value | None]
) -> dict[int, tuple[int, float]]:
    """Axis -> its new size, and how many times as long it becomes."""
    _, _, scales, sizes = (*read, None, None, None)[:4]
    axes = [a % len(shape) for a in attribute(node, "axes", range(len(shape)))]
    if sizes is not None and known(sizes, node).array.size:
        if attribute(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Unsupported(f"operator '{node.name}' keeps an aspect ratio")
        wanted = [int(n) for n in known(sizes, node).array.reshape(-1)]
        found = {a: (n, n / shape[a]) for a, n in zip(axes, wanted, strict=True)}
    else:
        factors = [float(f) for f in known(scales, node).array.reshape(-1)]
        found = {a: (math.floor(shape[a] * f), f) for a, f in zip(axes, factors, strict=True)}
    if any(not 1 <= size <= _LARGEST for size, _ in found.values()):
        raise Unsupported(f"operator '{node.name}' resizes to nothing")
    return found


def _taps(
    at: Any, length: int, cubic: float | None
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """What each value of an axis is mixed of: indices and weights, [values, taps].

    cubic: the coefficient of Keys' four taps, None for two taps.
    """
    if cubic is None:
        index, weight = linear_taps(at, length)
    else:
        where = np.asarray(at, np.float64)
        left = np.floor(where)
        away = np.stack([where - left + 1 - i for i in range(4)])  # distance of each tap, signed
        d = np.abs(away)
        near = ((cubic + 2) * d - (cubic + 3)) * d * d + 1
        far = ((cubic * d - 5 * cubic) * d + 8 * cubic) * d - 4 * cubic
        weight = np.where(d <= 1, near, far).astype(np.float32)
        index = np.clip(left - 1 + np.arange(4)[:, None], 0, length - 1).astype(np.intp)
    return np.ascontiguousarray(index.T, np.int64), np.ascontiguousarray(weight.T, np.float32)


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {("", "Resize"): _resize}
