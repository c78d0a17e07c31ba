"""Each kernel's share of the engine's measured peak, by shape.

    python -m benchmarks.kernels --threads 1
    INTACT_ISA=avx512_vnni python -m benchmarks.kernels

Convolutions and matrix products of ResNet, MobileNet and BERT, each as a model of its own; the time
is the least of many runs of that one operator.
"""

import argparse
import os
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table

from intact.core.native import native
from intact.engine.compile import Model


class Shape(NamedTuple):
    """A convolution of a square image; a matrix product is a 1×1 one of `size` pixels by 1."""

    name: str
    channels: int
    outputs: int
    kernel: int
    stride: int
    size: int
    group: int = 1
    matrix: bool = False


SHAPES = (
    Shape("ResNet first 7x7", 3, 64, 7, 2, 224),
    Shape("ResNet 3x3, 64", 64, 64, 3, 1, 56),
    Shape("ResNet 3x3, 128", 128, 128, 3, 1, 28),
    Shape("ResNet 3x3, 256", 256, 256, 3, 1, 14),
    Shape("ResNet 3x3, 512", 512, 512, 3, 1, 7),
    Shape("ResNet 1x1, 256 to 64", 256, 64, 1, 1, 56),
    Shape("ResNet 1x1, 512 to 2048", 512, 2048, 1, 1, 7),
    Shape("MobileNet 1x1, 16 to 96", 16, 96, 1, 1, 112),
    Shape("MobileNet 1x1, 144 to 24", 144, 24, 1, 1, 56),
    Shape("MobileNet 1x1, 576 to 96", 576, 96, 1, 1, 14),
    Shape("MobileNet depthwise 3x3", 144, 144, 3, 1, 56, 144),
    Shape("EfficientNet depthwise 5x5", 672, 672, 5, 1, 14, 672),
    Shape("MiniLM 128 x 384 x 1536", 384, 1536, 1, 1, 128, matrix=True),
    Shape("BERT 128 x 768 x 768", 768, 768, 1, 1, 128, matrix=True),
    Shape("BERT 128 x 768 x 3072", 768, 3072, 1, 1, 128, matrix=True),
    Shape("BERT 128 x 3072 x 768", 3072, 768, 1, 1, 128, matrix=True),
)


def model_of(shape: Shape) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """QuantizeLinear, the operator, QuantizeLinear; and an input."""
    rng = np.random.default_rng(0)
    if shape.matrix:
        x = rng.standard_normal((shape.size, shape.channels), np.float32)
        weights = rng.integers(-127, 128, (shape.channels, shape.outputs)).astype(np.int8)
    else:
        x = rng.standard_normal((1, shape.channels, shape.size, shape.size), np.float32)
        kernel = (shape.outputs, shape.channels // shape.group, shape.kernel, shape.kernel)
        weights = rng.integers(-127, 128, kernel).astype(np.int8)
    constants = {
        "s": np.float32(0.03), "z": np.uint8(128), "w_q": weights, "w_s": np.float32(0.01),
        "w_z": np.int8(0), "y_s": np.float32(0.5),
    }  # fmt: skip
    pad = shape.kernel // 2
    attributes: dict[str, Any] = {
        "strides": [shape.stride] * 2, "pads": [pad] * 4, "group": shape.group
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"]),
        helper.make_node("DequantizeLinear", ["w_q", "w_s", "w_z"], ["w"]),
        helper.make_node("MatMul", ["x_dq", "w"], ["r"])
        if shape.matrix
        else helper.make_node("Conv", ["x_dq", "w"], ["r"], **attributes),
        helper.make_node("QuantizeLinear", ["r", "y_s", "z"], ["r_q"]),
        helper.make_node("DequantizeLinear", ["r_q", "y_s", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), {"x": x}


def macs_of(shape: Shape) -> float:
    """Multiply-accumulates."""
    if shape.matrix:
        return float(shape.size * shape.channels * shape.outputs)
    pixels = (-(-shape.size // shape.stride)) ** 2
    return float(pixels * shape.outputs * shape.channels // shape.group * shape.kernel**2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=200)
    options = parser.parse_args()
    if native is None:
        raise SystemExit("the native engine is not built here")
    isa = os.environ.get("INTACT_ISA", "")
    engine = native.Engine.create(options.threads, isa)
    peak = engine.peak()
    table = Table(title=f"{engine.isa}, {options.threads} threads, peak {peak:.0f} GMAC/s")
    for column in ("operator", "microseconds", "GMAC/s", "of peak"):
        table.add_column(column, justify="left" if column == "operator" else "right")
    for shape in SHAPES:
        proto, feeds = model_of(shape)
        model = Model(proto, options.threads, _never, isa)
        steps = dict(model.profile(feeds, options.repetitions))
        seconds = next(s for label, s in steps.items() if "quantize" not in label.split()[0])
        rate = macs_of(shape) / seconds / 1e9
        table.add_row(
            shape.name, f"{1e6 * seconds:.1f}", f"{rate:.0f}", f"{100 * rate / peak:.0f} %"
        )
    Console().print(table)


def _never(content: bytes) -> Any:
    raise AssertionError("these models need no other runtime")


if __name__ == "__main__":
    main()
