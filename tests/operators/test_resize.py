"""Resizing agrees with ONNX Runtime to one integer step."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from runtime import Quantized, activation, assert_within_one, options, qparams

from intact.core import arithmetic
from intact.core.qparams import dequantize, quantize


def runtime(x: Quantized, y: Any, scales: list[float], attributes: dict[str, Any]) -> Any:
    """Resize in float between dequantize and quantize, as QDQ means it."""
    node = helper.make_node("Resize", ["x", "", "scales"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.q.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array([1, 1, *scales], np.float32), "scales")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options())
    real: NDArray[np.float32] = session.run(None, {"x": dequantize(x.q, x.qparams)})[0]
    return quantize(real, y)


@pytest.mark.parametrize("scales", [[2.0, 2.0], [0.5, 3.0], [1.5, 0.75], [1.0, 0.2]], ids=str)
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize(
    "coordinates", ["half_pixel", "pytorch_half_pixel", "asymmetric", "align_corners"]
)
@pytest.mark.parametrize(
    ("mode", "rounding"),
    [
        ("linear", "round_prefer_floor"),
        ("nearest", "round_prefer_floor"),
        ("nearest", "round_prefer_ceil"),
        ("nearest", "floor"),
        ("nearest", "ceil"),
    ],
)
def test_resize(
    scales: list[float], same: bool, coordinates: Any, mode: Any, rounding: Any
) -> None:
    x = activation(np.random.default_rng(0), (2, 3, 4, 5))
    y = x.qparams if same else qparams(0.07, 90)
    ours = arithmetic.resize(
        x.q, x.qparams, y, scales=scales, mode=mode, coordinates=coordinates, rounding=rounding
    )
    attributes = {
        "mode": mode,
        "coordinate_transformation_mode": coordinates,
        "nearest_mode": rounding,
    }
    assert_within_one(ours, [runtime(x, y, scales, attributes)])
