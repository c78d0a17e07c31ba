"""From described values to instructions: integers for QuantizeLinear, or floats.

The arithmetic is that of `core.arithmetic`, operator by operator.
"""

from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intact.core.native import native
from intact.engine.arrange import dequantize, join, lookup_table, plain
from intact.engine.images import (
    channelwise,
    gate,
    join_integers,
    lookup_floats,
    real_binary,
    real_channelwise,
    resample,
    spread,
    with_rows,
)
from intact.engine.program import Quantization, Tensor, Unsupported, new_tensor
from intact.engine.rows import Ordered, Scattered, seen
from intact.engine.state import State
from intact.engine.values import (
    Channelwise,
    Constant,
    Dequantized,
    Function,
    Gated,
    Joined,
    Looked,
    Maximum,
    Mean,
    Product,
    Resampled,
    Scaled,
    Seen,
    Spread,
    Stored,
    Sum,
    Value,
)
from intact.engine.view import View

__all__ = ["finished", "quantize", "realize"]


def quantize(value: Value, to: Quantization, images: bool, label: str, state: State) -> Tensor:
    """The tensor of `value`'s integers.

    images: whether values that are floats in memory get their channels last.
    """
    match value:
        case Dequantized(tensor, quantization) if quantization == to:
            return tensor
        case Dequantized(tensor, quantization):
            y = new_tensor(tensor.shape, "uint8", tensor.images)
            return _copy(state, label, tensor, y, lookup_table(lambda x: x, quantization, to))
        case Product() if value.integer:
            return _integer_product(value, to, state)
        case Product() if (not value.images or images) and not _is_depthwise(value):
            return _real_product(value, to, state)
        case Function(x=Dequantized(tensor, quantization)):
            y = new_tensor(tensor.shape, "uint8", tensor.images)
            return _copy(
                state, value.label, tensor, y, lookup_table(value.function, quantization, to)
            )
        case Sum(sum_label, a, b, sign):
            y = new_tensor(value.shape, "uint8", a.tensor.images)
            a_scale, b_scale = float(a.quantization.scale), float(b.quantization.scale)
            return state.add(
                "add", sum_label, y, (a.tensor, b.tensor), size=y.size,
                scales=(a_scale, sign * b_scale, float(to.scale)),
                zero_points=(a.quantization.zero_point, b.quantization.zero_point),
                clamp=to.clamp(value.low, value.high),
            )  # fmt: skip
        case Gated():
            return gate(value, to, state)
        case Mean(x=Dequantized() as x):
            return _mean(value, x, to, state)
        case Maximum(pool_label, Dequantized() as x, windows):
            y = new_tensor(value.shape, "uint8", True)
            entries = (
                None if x.quantization == to else lookup_table(lambda v: v, x.quantization, to)
            )
            return state.add(
                "max_pool", pool_label, y, (x.tensor,), windows=windows.sizes, table=entries
            )
        case Spread():
            return spread(value, quantize(value.product, to, True, label, state), state)
        case Channelwise(x=Dequantized()) if value.function is None:
            return channelwise(value, to, state)
        case Resampled():
            return resample(value, to, state)
        case Seen(_, quantization):
            whole = plain(value, images, label, state)
            return quantize(whole, to, images, label, state)
        case Joined():
            return join_integers(value, to, images, state)
    return _quantize_stored(realize(value, state), to, images, label, state)


def realize(value: Value | None, state: State) -> Stored:
    """`value` in float32 in memory."""
    match value:
        case Stored() if value.tensor.dtype == "float32":
            return value
        case Stored():
            raise Unsupported("whole numbers where floats are needed")
        case Constant():
            return state.constant(value.real)
        case Looked():
            return _look_up(value, state)
        case Product():
            return Stored.of(_real_product(value, None, state))
        case Scattered() | Ordered():
            held = finished(value, state)
            if isinstance(held, Stored):
                return held
            return Stored.of(state.copied(held.view, False, "layout"))
        case Mean(x=Dequantized() as x):
            return Stored.of(_mean(value, x, None, state))
        case Mean(x=Stored() as x) | Maximum(x=Stored() as x):
            y = new_tensor(value.shape, "float32", len(value.shape) > 2)
            counts = value.counts.reshape(-1) if isinstance(value, Mean) else None
            tensor = state.images(x, value.label)
            windows = value.windows.sizes
            state.add("real_pool", value.label, y, (tensor,), windows=windows, counts=counts)
            return Stored.of(y)
        case Function(x=Dequantized() as x):
            return lookup_floats(value, x, state)
        case Maximum(label, Dequantized(_, quantization)):
            largest = quantize(value, quantization, True, label, state)
            return realize(Dequantized(largest, quantization), state)
        case Function(label, Stored() as x, op_type):
            tensor = _as_it_lies(x, label, state)
            y = new_tensor(tensor.shape, "float32", tensor.images)
            function = (op_type, value.alpha, value.beta)
            state.add("function", label, y, (tensor,), size=y.size, function=function)
            return Stored.of(y)
        case Scaled(x, factor):
            tensor = _as_it_lies(x, "scale", state)
            y = new_tensor(tensor.shape, "float32", tensor.images)
            number = state.constant(np.full(1, factor, np.float32)).tensor
            state.add(
                "binary", "scale", y, (tensor, number), operation="Mul", a_strides=(0, 0, 1),
                b_strides=(0, 0, 0), sizes=(1, 1, y.size), extremes=None,
            )  # fmt: skip
            return Stored.of(y)
        case Dequantized():
            return Stored.of(dequantize(value, value.tensor.images, state))
        case Seen():
            return realize(plain(value, len(value.shape) == 4, "layout", state), state)
        case Spread():
            return Stored.of(spread(value, _real_product(value.product, None, state), state))
        case Channelwise():
            return real_channelwise(value, state)
        case Resampled():
            return Stored.of(resample(value, None, state))
        case Joined(label, parts, axis):
            return join([realize(part, state) for part in parts], axis, label, state)
        case Sum() | Gated():
            return real_binary(value, state)
    raise Unsupported(f"{type(value).__name__.lower()} as floats")


def finished(value: Value, state: State) -> Stored | Scattered:
    """`value` in float32 in memory, in whatever order."""
    if isinstance(value, Ordered):
        return seen(View(_real_product(value.product, None, state), value.view.axes))
    return value if isinstance(value, Scattered) else realize(value, state)


def _look_up(value: Looked, state: State) -> Stored:
    table, scale = value.table, value.scale
    if not value.real:
        raise Unsupported(f"'{value.label}' looks up integers")
    y = new_tensor(value.shape, "float32")
    held = state.constant(table, table.dtype.name)  # type: ignore[arg-type]
    inputs = [held.tensor, state.contiguous(value.indices, value.label)]
    by_row = scale is not None and scale.size > 1
    if by_row:
        assert scale is not None
        inputs.append(state.constant(scale.reshape(-1)).tensor)
    rows, count = table.shape[0], prod(value.indices.shape)
    return Stored.of(
        state.add(
            "gather", value.label, y, inputs, sizes=(1, rows, count, table.size // rows),
            type=table.dtype.name, scales=by_row, zero_point=value.zero_point,
            scale=1.0 if by_row or scale is None else float(scale.reshape(())),
        )
    )  # fmt: skip


def _as_it_lies(x: Stored, label: str, state: State) -> Tensor:
    """x where it lies, if that is in either order without gaps; else copied."""
    as_images = Stored.of(Tensor(x.tensor.storage, x.shape, "float32", len(x.shape) > 2))
    return state.images(x, label) if x.lies_as(as_images) else state.contiguous(x, label)


def _quantize_stored(x: Stored, to: Quantization, images: bool, label: str, state: State) -> Tensor:
    y = new_tensor(x.shape, "uint8", images)
    wanted = Stored.of(Tensor(x.tensor.storage, x.shape, "float32", images))
    if images and not x.lies_as(wanted):
        tensor = state.contiguous(x, label)
        outer, channels = x.shape[:2]
    else:
        tensor = state.images(x, label) if images else state.contiguous(x, label)
        outer, channels = 1, 1
    return state.add(
        "quantize", label, y, (tensor,), images=outer, channels=channels,
        pixels=y.size // (outer * channels), scale=float(to.scale), zero_point=to.zero_point,
    )  # fmt: skip


def _copy(
    state: State, label: str, x: Tensor, y: Tensor, entries: NDArray[np.uint8] | None
) -> Tensor:
    """x, looked up."""
    return state.add(
        "copy", label, y, (x,), rows=1, x_stride=x.size, x_offset=0, columns=x.size,
        y_stride=x.size, y_offset=0, table=entries,
    )  # fmt: skip


def _folded_bias(value: Product) -> NDArray[np.int32]:
    """The bias with the zero point's share of each sum, which padding holds too."""
    assert native is not None
    sums = native.column_sums(np.ascontiguousarray(value.weights)).astype(np.int64)
    # With zero points of their own, rows take their share away at run time.
    bias = sums if value.rows else value.bias - value.x_zero_point * sums
    most: Any = value.weights.shape[1] * 128 * 255
    if most + np.abs(bias).max(initial=0) >= 2**31:  # perhaps; else surely not
        most = np.abs(value.weights.astype(np.int64)).sum(axis=1).reshape(-1) * 255
    if (most + np.abs(bias)).max(initial=0) >= 2**31:
        raise Unsupported(f"'{value.label}': sums beyond int32")
    return np.asarray(bias, np.int32)


def _integer_product(value: Product, to: Quantization, state: State) -> Tensor:
    groups, depth, columns = value.weights.shape
    y = new_tensor(value.shape, "uint8", value.images)
    shared = {
        "windows": value.windows.sizes, "x_zero_point": value.x_zero_point, "name": value.name,
        "bias": _folded_bias(value),
        "scale": np.ascontiguousarray(value.scale / to.scale, np.float32),
        "clamp": to.clamp(value.low, value.high), "table": None, "addend": None,
    }  # fmt: skip
    if groups == value.windows.channels and columns == 1 and groups > 1:
        weights = np.ascontiguousarray(value.weights.reshape(groups, depth).T)
        return state.add("depthwise", value.label, y, (value.x,), weights=weights, **shared)
    return state.add(
        "convolution", value.label, y, (value.x,), weights=value.weights, within=None, **shared
    )


def _is_depthwise(value: Product) -> bool:
    groups, _, columns = value.weights.shape
    return bool(groups == value.windows.channels > 1 and columns == 1)


def _real_product(value: Product, to: Quantization | None, state: State) -> Tensor:
    bias = _folded_bias(value)
    if to is None and not value.rows and _is_depthwise(value):
        value = with_rows(value, state)
    if value.clamps:
        if value.function or value.other or value.shift is not None:
            raise Unsupported(f"'{value.label}': a clamp before a float bias")
        function: tuple[str, float, float] | None = ("Clip", value.low, value.high)
    else:
        function = value.function
    y = new_tensor(value.shape, "float32" if to is None else "uint8", value.images)
    inputs = [value.x]
    if value.rows:
        inputs += [value.rows.scales, value.rows.zero_points]
    if value.other:
        inputs.append(value.other)
    shift = None if value.shift is None else np.ascontiguousarray(value.shift, np.float32)
    shared = {
        "windows": value.windows.sizes, "name": value.name, "bias": bias,
        "scale": np.ascontiguousarray(value.scale, np.float32), "rows": bool(value.rows),
        "other": bool(value.other), "shift": shift, "function": function, "bounds": value.bounds,
        "extremes": None, "found": None,
    }  # fmt: skip
    groups, depth, _ = value.weights.shape
    if value.rows and to is None and _is_depthwise(value):
        weights = np.ascontiguousarray(value.weights.reshape(groups, depth).T)
        return state.add(
            "real_depthwise", value.label, y, inputs, weights=weights, of_lines=None, **shared
        )
    return state.add(
        "real_convolution", value.label, y, inputs, weights=value.weights,
        x_zero_point=value.x_zero_point,
        quantized=None if to is None else (float(to.scale), to.zero_point), **shared,
    )  # fmt: skip


def _mean(value: Mean, x: Dequantized, to: Quantization | None, state: State) -> Tensor:
    y = new_tensor(value.shape, "float32" if to is None else "uint8", len(value.shape) > 2)
    return state.add(
        "average_pool", value.label, y, (x.tensor,), windows=value.windows.sizes,
        x_zero_point=x.quantization.zero_point, x_scale=float(x.quantization.scale),
        counts=value.counts.reshape(-1), y_scale=None if to is None else float(to.scale),
        clamp=None if to is None else to.clamp(),
    )  # fmt: skip
