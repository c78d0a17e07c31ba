"""LSTM and GRU agree with ONNX Runtime's float operators, but for the rounding of x and h."""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from runtime import options

from intact.core import arithmetic

BATCH, INPUT, HIDDEN = 3, 7, 4
GATES = {"LSTM": 4, "GRU": 3}
CASES = [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("GRU", {"linear_before_reset": 0})]


def operands(op_type: str, time: int, directions: int) -> dict[str, NDArray[Any]]:
    """Random operands; the initial state is a whole number of steps of 1/128, from -1 to 127/128,
    which the parameters of its rows hold exactly."""
    rng = np.random.default_rng(time + directions)
    rows = GATES[op_type] * HIDDEN
    state = (directions, BATCH, HIDDEN)
    steps = rng.integers(-128, 128, state)
    steps[..., 0], steps[..., 1] = -128, 127
    result = {
        "x": 3 * rng.standard_normal((time, BATCH, INPUT), np.float32),
        "w_q": rng.integers(-127, 128, (directions, rows, INPUT)).astype(np.int8),
        "w_scale": rng.uniform(0.001, 0.01, (directions, rows)).astype(np.float32),
        "r_q": rng.integers(-127, 128, (directions, rows, HIDDEN)).astype(np.int8),
        "r_scale": rng.uniform(0.001, 0.01, (directions, rows)).astype(np.float32),
        "bias": rng.standard_normal((directions, 2 * rows), np.float32),
        "initial_h": (steps / 128).astype(np.float32),
    }
    if op_type == "LSTM":
        result["initial_c"] = rng.standard_normal(state, np.float32)
    return result


def reference(
    op_type: str, parts: dict[str, NDArray[Any]], direction: Any, attributes: dict[str, int]
) -> tuple[NDArray[np.float32], ...]:
    if op_type == "LSTM":
        return arithmetic.lstm(**parts, direction=direction)
    before_reset = bool(attributes["linear_before_reset"])
    return arithmetic.gru(**parts, direction=direction, linear_before_reset=before_reset)


def runtime(
    op_type: str, parts: dict[str, NDArray[Any]], direction: str, attributes: dict[str, int]
) -> list[NDArray[np.float32]]:
    """ONNX Runtime's float operator on the dequantized weights and on x rounded row by row."""
    q, scale, point = arithmetic.dynamic_quantize(parts["x"], (2,))
    feeds = {
        "x": (q - point) * scale,
        "w": parts["w_q"] * parts["w_scale"][..., None],
        "r": parts["r_q"] * parts["r_scale"][..., None],
        "b": parts["bias"],
        "h": parts["initial_h"],
    }
    if op_type == "LSTM":
        feeds["c"] = parts["initial_c"]
    names = list(feeds)
    outputs = ["y", "y_h", "y_c"] if op_type == "LSTM" else ["y", "y_h"]
    node = helper.make_node(
        op_type, [*names[:4], "", *names[4:]], outputs,
        hidden_size=HIDDEN, direction=direction, **attributes,
    )  # fmt: skip

    def infos(names: list[str]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names]

    graph = helper.make_graph([node], op_type, infos(names), infos(outputs))
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options())
    results: list[NDArray[np.float32]] = session.run(None, feeds)
    return results


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(("op_type", "attributes"), CASES)
@pytest.mark.parametrize("time", [1, 12])
def test_recurrent(op_type: str, attributes: dict[str, int], direction: str, time: int) -> None:
    parts = operands(op_type, time, 2 if direction == "bidirectional" else 1)
    ours = reference(op_type, parts, direction, attributes)
    theirs = runtime(op_type, parts, direction, attributes)
    # The first step's state is exact; later ones are rounded to steps of at most 2/255, as is the
    # product of state and reset gate, so the gates differ by up to |r| / 255 each.
    exact = time == 1 and attributes.get("linear_before_reset", 1)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float32
        assert mine.shape == other.shape
        assert np.abs(mine - other).max() < (1e-5 if exact else 0.03)
        assert other.std() > 0.2


@pytest.mark.parametrize(("op_type", "attributes"), CASES)
def test_a_sequence_does_not_depend_on_its_batch(op_type: str, attributes: dict[str, int]) -> None:
    parts = operands(op_type, 6, 1)
    together = reference(op_type, parts, "forward", attributes)
    one = {
        name: value[:, 1:2] if name == "x" or name.startswith("initial") else value
        for name, value in parts.items()
    }
    alone = reference(op_type, one, "forward", attributes)
    np.testing.assert_array_equal(together[0][:, :, 1:2], alone[0])
