"""From described values to instructions: as the integers that QuantizeLinear asks for, or as floats.

The arithmetic is that of `core.arithmetic`, operator by operator.
"""

import numpy as np
from numpy.typing import NDArray

from intact.core.arithmetic import table
from intact.core.qparams import QParams
from intact.engine.values import (
    Dequantized,
    Function,
    Gated,
    Instruction,
    Joined,
    Maximum,
    Mean,
    Product,
    Quantization,
    Stored,
    Sum,
    Tensor,
    Unsupported,
    Value,
    new_tensor,
)

__all__ = ["quantize", "realize"]


def quantize(value: Value, to: Quantization, label: str, program: list[Instruction]) -> Tensor:
    """The tensor of `value`'s integers; instructions are added to `program`."""
    images = len(value.shape) > 2
    match value:
        case Dequantized(tensor, quantization) if quantization == to:
            return tensor
        case Dequantized(tensor, quantization):
            y = new_tensor(tensor.shape, "uint8", tensor.images)
            entries = _table(lambda x: x, quantization, to)
            program.append(_copy(label, tensor, y, entries))
            return y
        case Stored(tensor):
            return _quantize_stored(tensor, to, label, program)
        case Product():
            if value.shift is not None:
                raise Unsupported(f"'{label}': a float bias before QuantizeLinear")
            y = new_tensor(value.shape, "uint8", images)
            program.append(_product(value, y, to))
            return y
        case Function(x=Dequantized(tensor, quantization)):
            y = new_tensor(tensor.shape, "uint8", tensor.images)
            entries = _table(value.function, quantization, to)
            program.append(_copy(value.label, tensor, y, entries))
            return y
        case Function(x=Stored()):
            return _quantize_stored(realize(value, program), to, label, program)
        case Sum(sum_label, a, b):
            y = new_tensor(value.shape, "uint8", a.tensor.images)
            scales = (a.quantization.scale, b.quantization.scale, to.scale)
            points = (a.quantization.zero_point, b.quantization.zero_point)
            parameters = {
                "size": y.size, "scales": tuple(map(float, scales)), "zero_points": points,
                "clamp": to.clamp(value.low, value.high),
            }  # fmt: skip
            program.append(Instruction("add", sum_label, y, (a.tensor, b.tensor), parameters))
            return y
        case Gated(gate_label, a, gate):
            y = new_tensor(value.shape, "uint8", images)
            scale = a.quantization.scale * gate.quantization.scale / to.scale
            parameters = {
                "images": a.shape[0], "channels": a.shape[1],
                "pixels": a.tensor.size // (a.shape[0] * a.shape[1]),
                "zero_points": (a.quantization.zero_point, gate.quantization.zero_point),
                "scale": float(scale), "clamp": to.clamp(),
            }  # fmt: skip
            program.append(Instruction("gate", gate_label, y, (a.tensor, gate.tensor), parameters))
            return y
        case Mean():
            y = new_tensor(value.shape, "uint8", images)
            program.append(_mean(value, y, to))
            return y
        case Maximum(pool_label, x, windows):
            y = new_tensor(value.shape, "uint8", images)
            entries = None if x.quantization == to else _table(lambda v: v, x.quantization, to)
            parameters = {"windows": windows.sizes, "table": entries}
            program.append(Instruction("max_pool", pool_label, y, (x.tensor,), parameters))
            return y
        case Joined(join_label, parts):
            y = new_tensor(value.shape, "uint8", images)
            offset = 0
            for part in parts:
                same = part.quantization == to
                entries = None if same else _table(lambda v: v, part.quantization, to)
                program.append(_copy(join_label, part.tensor, y, entries, offset))
                offset += part.shape[1]
            return y
    raise Unsupported(f"'{label}': QuantizeLinear of {type(value).__name__}")


def realize(value: Value, program: list[Instruction]) -> Tensor:
    """The tensor of `value` in float32; instructions are added to `program`."""
    match value:
        case Stored(tensor):
            return tensor
        case Product():
            if np.isfinite(value.low) or np.isfinite(value.high):
                raise Unsupported(f"'{value.label}': an activation before a float output")
            y = new_tensor(value.shape, "float32", len(value.shape) > 2)
            program.append(_product(value, y, None))
            return y
        case Mean():
            y = new_tensor(value.shape, "float32", len(value.shape) > 2)
            program.append(_mean(value, y, None))
            return y
        case Function(label, Stored(tensor), op_type):
            y = new_tensor(tensor.shape, "float32", tensor.images)
            parameters = {
                "size": y.size, "name": op_type, "alpha": value.alpha, "beta": value.beta
            }  # fmt: skip
            program.append(Instruction("function", label, y, (tensor,), parameters))
            return y
        case Dequantized(tensor, quantization):
            y = new_tensor(tensor.shape, "float32")
            images, channels, pixels = layout(tensor)
            parameters = {
                "images": images, "channels": channels, "pixels": pixels,
                "scale": float(quantization.scale), "zero_point": quantization.zero_point,
            }  # fmt: skip
            program.append(Instruction("dequantize", "dequantize", y, (tensor,), parameters))
            return y
    raise Unsupported(f"{type(value).__name__} as floats")


def layout(tensor: Tensor) -> tuple[int, int, int]:
    """Images, channels and pixels: what the border between layouts has to exchange."""
    if len(tensor.shape) <= 2:
        return 1, 1, tensor.size
    images, channels = tensor.shape[:2]
    return images, channels, tensor.size // (images * channels)


def _quantize_stored(
    tensor: Tensor, to: Quantization, label: str, program: list[Instruction]
) -> Tensor:
    y = new_tensor(tensor.shape, "uint8", len(tensor.shape) > 2)
    images, channels, pixels = (1, 1, tensor.size) if tensor.images else layout(tensor)
    parameters = {
        "images": images, "channels": channels, "pixels": pixels,
        "scale": float(to.scale), "zero_point": to.zero_point,
    }  # fmt: skip
    program.append(Instruction("quantize", label, y, (tensor,), parameters))
    return y


def _table(
    function: object, x: Quantization, y: Quantization
) -> NDArray[np.uint8]:
    parameters = [
        QParams(np.asarray(q.scale), np.asarray(q.zero_point, np.int32), "uint8") for q in (x, y)
    ]
    return np.asarray(table(function, *parameters), np.uint8)  # type: ignore[arg-type]


def _copy(
    label: str, x: Tensor, y: Tensor, entries: NDArray[np.uint8] | None, offset: int = 0
) -> Instruction:
    """x, looked up, as the channels of y from `offset` on."""
    columns = x.shape[1] if x.images else x.size
    width = y.shape[1] if y.images else y.size
    parameters = {
        "rows": x.size // columns, "x_stride": columns, "x_offset": 0, "columns": columns,
        "y_stride": width, "y_offset": offset, "table": entries,
    }  # fmt: skip
    return Instruction("copy", label, y, (x,), parameters)


def _product(value: Product, y: Tensor, to: Quantization | None) -> Instruction:
    groups, depth, columns = value.weights.shape
    channels = value.windows.channels
    depthwise = groups == channels and columns == 1 and channels > 1 and to is not None
    # The share of the zero point in each sum, which padding holds too.
    weights = value.weights.astype(np.int64)
    bias = value.bias - value.x_zero_point * weights.sum(axis=1).reshape(-1)
    if np.abs(bias).max(initial=0) >= 2**31:
        raise Unsupported(f"'{value.label}': a bias beyond int32")
    # Sums are taken in int32; a bias is added to them there.
    worst = np.abs(weights).sum(axis=1).reshape(-1) * 255 + np.abs(bias)
    if worst.max(initial=0) >= 2**31:
        raise Unsupported(f"'{value.label}': sums beyond int32")
    scale = value.scale if to is None else (value.scale / to.scale).astype(np.float32)
    parameters = {
        "windows": value.windows.sizes, "x_zero_point": value.x_zero_point,
        "weights": value.weights, "name": value.name, "bias": bias.astype(np.int32),
        "scale": np.ascontiguousarray(scale, np.float32),
        "clamp": None if to is None else to.clamp(value.low, value.high),
        "table": None, "addend": None,
    }  # fmt: skip
    if depthwise:
        parameters["weights"] = np.ascontiguousarray(value.weights.reshape(groups, depth).T)
        return Instruction("depthwise", value.label, y, (value.x,), parameters)
    parameters["shift"] = value.shift
    return Instruction("convolution", value.label, y, (value.x,), parameters)


def _mean(value: Mean, y: Tensor, to: Quantization | None) -> Instruction:
    parameters = {
        "windows": value.windows.sizes, "x_zero_point": value.x.quantization.zero_point,
        "x_scale": float(value.x.quantization.scale), "counts": value.counts.reshape(-1),
        "y_scale": None if to is None else float(to.scale),
        "clamp": None if to is None else to.clamp(),
    }  # fmt: skip
    return Instruction("average_pool", value.label, y, (value.x.tensor,), parameters)
