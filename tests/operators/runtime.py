"""Single operators in ONNX Runtime, in the standard QDQ form, to compare the reference with."""

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
from hypothesis import settings
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from intact.core.arithmetic import centered
from intact.core.qparams import BOUNDS, Dtype, QParams, asymmetric

# Each example builds a model; few of them, the same every time.
quick = settings(max_examples=40, deadline=None, derandomize=True)

_TYPES = {
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
    "float32": TensorProto.FLOAT,
}


class Quantized(NamedTuple):
    """An operand: integers and what they mean. A constant is part of the model, not an input."""

    q: NDArray[Any]
    qparams: QParams
    constant: bool = False


def qparams(
    scale: Any, zero_point: Any, dtype: Dtype = "uint8", axis: int | None = None
) -> QParams:
    scale = np.asarray(scale, np.float32)
    points = np.broadcast_to(np.asarray(zero_point, np.int32), scale.shape)
    return QParams(scale, points, dtype, axis)


def activation(rng: np.random.Generator, shape: Sequence[int], dtype: Dtype = "uint8") -> Quantized:
    """Random integers, a quarter of them at the bounds, with a random scale and zero point."""
    low, high = BOUNDS[dtype]
    q = rng.integers(low, high + 1, shape)
    q = np.where(rng.random(shape) < 0.25, rng.choice([low, high], shape), q).astype(dtype)
    zero_point = rng.choice([low, high, (low + high + 1) // 2, rng.integers(low, high + 1)])
    return Quantized(q, qparams(rng.uniform(1e-3, 0.1), zero_point, dtype))


def weight(
    rng: np.random.Generator, shape: Sequence[int], axis: int | None, dtype: Dtype = "int8"
) -> Quantized:
    """Random weights in [-127, 127], a quarter at the ends; uint8 ones have zero point 128."""
    q = rng.integers(-127, 128, shape)
    q = np.where(rng.random(shape) < 0.25, rng.choice([-127, 127], shape), q)
    middle = 128 if dtype == "uint8" else 0
    scale = rng.uniform(1e-4, 0.02, () if axis is None else shape[axis])
    return Quantized((q + middle).astype(dtype), qparams(scale, middle, dtype, axis), True)


def bias(rng: np.random.Generator, x: Quantized, w: Quantized, size: int) -> Quantized:
    """An int32 bias at the scale of the products."""
    # A grouped transposed convolution's scales repeat in every group.
    scale = np.resize(x.qparams.scale * w.qparams.scale, size)
    q = rng.integers(-20000, 20001, size).astype(np.int32)
    return Quantized(q, qparams(scale, 0, "int32", 0), True)


def output(real: NDArray[Any], dtype: Dtype = "uint8") -> QParams:
    """Parameters that cover nine tenths of an output's range, so that some values clamp."""
    return asymmetric(0.9 * float(real.min()), 0.9 * float(real.max()), dtype)


@cache
def accumulates_exactly() -> bool:
    """Whether the runtime's u8*s8 products are exact here; without VNNI they saturate 16 bits."""
    x = Quantized(np.full((1, 64), 255, np.uint8), qparams(1, 0))
    w = Quantized(np.full((64, 1), 127, np.int8), qparams(1, 0, "int8"), True)
    y = qparams(255 * 127 * 64 / 200, 0)
    return int(run("MatMul", [x, w], y)[0, 0]) == 200


def run_both(
    op_type: str,
    operands: Sequence[Quantized],
    y: QParams | None,
    attributes: Mapping[str, Any] | None = None,
) -> list[NDArray[Any]]:
    """The runtime's results: of integer kernels where those are exact, and of the float form."""
    signed = any(part.constant and part.q.dtype == np.int8 for part in operands)
    integer_kernels = accumulates_exactly() or not signed
    return [
        run(op_type, operands, y, attributes, optimized=optimized)
        for optimized in ([True, False] if integer_kernels else [False])
    ]


def run(
    op_type: str,
    operands: Sequence[Quantized],
    y: QParams | None,
    attributes: Mapping[str, Any] | None = None,
    *,
    optimized: bool = True,
) -> NDArray[Any]:
    """DequantizeLinear of every operand, the operator, and QuantizeLinear where `y` is given."""
    session = onnxruntime.InferenceSession(
        model(op_type, operands, y, attributes).SerializeToString(), options(optimized)
    )
    feeds = {f"q{i}": part.q for i, part in enumerate(operands) if not part.constant}
    result: NDArray[Any] = session.run(None, feeds)[0]
    return result


def options(optimized: bool = True) -> onnxruntime.SessionOptions:
    result = onnxruntime.SessionOptions()
    result.intra_op_num_threads = 1
    result.log_severity_level = 3
    levels = onnxruntime.GraphOptimizationLevel
    result.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return result


def kernels(
    op_type: str,
    operands: Sequence[Quantized],
    y: QParams | None,
    attributes: Mapping[str, Any] | None = None,
) -> list[str]:
    """The operators of the graph that the runtime really runs."""
    with tempfile.TemporaryDirectory() as folder:
        chosen = options()
        chosen.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        content = model(op_type, operands, y, attributes).SerializeToString()
        onnxruntime.InferenceSession(content, chosen)
        return [node.op_type for node in onnx.load(chosen.optimized_model_filepath).graph.node]


def model(
    op_type: str,
    operands: Sequence[Quantized],
    y: QParams | None,
    attributes: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    nodes, inputs, constants = [], [], []

    def constant(name: str, value: NDArray[Any]) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def parameters(label: str, chosen: QParams) -> list[str]:
        names = [constant(f"scale_{label}", chosen.scale)]
        if chosen.dtype != "int32":
            names.append(constant(f"point_{label}", chosen.zero_point.astype(chosen.dtype)))
        return names

    for i, part in enumerate(operands):
        if part.constant:
            constant(f"q{i}", part.q)
        else:
            dtype = _TYPES[part.q.dtype.name]
            inputs.append(helper.make_tensor_value_info(f"q{i}", dtype, part.q.shape))
        axis = {} if part.qparams.axis is None else {"axis": part.qparams.axis}
        names = [f"q{i}", *parameters(str(i), part.qparams)]
        nodes.append(helper.make_node("DequantizeLinear", names, [f"x{i}"], **axis))
    operator_inputs = [f"x{i}" for i in range(len(operands))]
    nodes.append(helper.make_node(op_type, operator_inputs, ["real"], **(attributes or {})))
    if y is not None:
        nodes.append(helper.make_node("QuantizeLinear", ["real", *parameters("y", y)], ["y"]))
    result = helper.make_tensor_value_info(
        "real" if y is None else "y", _TYPES["float32" if y is None else y.dtype], None
    )
    graph = helper.make_graph(nodes, op_type, inputs, [result], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def assert_within_one(ours: NDArray[Any], theirs: Sequence[NDArray[Any]]) -> None:
    """No integer differs from the runtime's by more than one."""
    for result in theirs:
        assert ours.dtype == result.dtype
        assert ours.shape == result.shape
        difference = np.abs(ours.astype(np.int64) - result.astype(np.int64))
        assert difference.max(initial=0) <= 1


def assert_close(ours: NDArray[Any], theirs: Sequence[NDArray[Any]]) -> None:
    """Floats agree to what float32 sums in another order may differ by."""
    for result in theirs:
        assert ours.dtype == result.dtype
        np.testing.assert_allclose(ours, result, rtol=1e-5, atol=1e-5 * np.abs(result).max())


def steps(operand: Quantized) -> NDArray[np.int64]:
    return centered(operand.q, operand.qparams)
