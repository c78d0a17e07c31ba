"""What is emitted: a file that ONNX's checker accepts, that computes what the plan says."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from intact.choose.default import choose
from intact.choose.options import Options
from intact.core.errors import PlanError
from intact.core.plan import Decision, Plan
from intact.core.qparams import QParams
from intact.emit import TARGETS, Target, emit
from tests.graphs import Feeds, observe, parse, run, sqnr

RNG = np.random.default_rng(0)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


CASES: dict[str, tuple[str, Feeds, Feeds]] = {
    "conv": (
        """m (float[n,3,9,9] x) => (float[n,6,5,5] y) {
            a = Conv <pads=[1,1,1,1]> (x, w1, b1)
            r = Relu (a)
            y = Conv <strides=[2,2], pads=[1,1,1,1], dilations=[1,1], group=2> (r, w2, b2)
        }""",
        {"w1": normal(4, 3, 3, 3), "b1": normal(4), "w2": normal(6, 2, 3, 3), "b2": normal(6)},
        {"x": normal(5, 3, 9, 9)},
    ),
    "conv1d": (
        "m (float[n,3,20] x) => (float[n,4,9] y) { y = Conv <strides=[2]> (x, w) }",
        {"w": normal(4, 3, 4)},
        {"x": normal(5, 3, 20)},
    ),
    "conv_transpose": (
        """m (float[n,4,5,5] x) => (float[n,6,11,11] y) {
            y = ConvTranspose <strides=[2,2], group=2> (x, w, b)
        }""",
        {"w": normal(4, 3, 3, 3), "b": normal(6)},
        {"x": normal(5, 4, 5, 5)},
    ),
    "gemm": (
        "m (float[n,16] x) => (float[n,8] y) { y = Gemm <transB=1> (x, w, b) }",
        {"w": normal(8, 16), "b": normal(8)},
        {"x": normal(5, 16)},
    ),
    "matmul": (
        "m (float[n,7,16] x) => (float[n,7,8] y) { p = MatMul (x, w) y = Add (p, b) }",
        {"w": normal(16, 8), "b": normal(8)},
        {"x": normal(5, 7, 16)},
    ),
    "lstm": (
        """m (float[t,n,6] x) => (float[t,2,n,5] y, float[2,n,5] h) {
            y, h = LSTM <hidden_size=5, direction="bidirectional"> (x, w, r, b)
        }""",
        {"w": normal(2, 20, 6), "r": normal(2, 20, 5), "b": normal(2, 40)},
        {"x": normal(4, 5, 6)},
    ),
    "gru": (
        """m (float[t,n,6] x) => (float[t,1,n,5] y) {
            y = GRU <hidden_size=5, linear_before_reset=1, direction="reverse"> (x, w, r, b)
        }""",
        {"w": normal(1, 15, 6), "r": normal(1, 15, 5), "b": normal(1, 30)},
        {"x": normal(4, 5, 6)},
    ),
    "embedding": (
        "m (int64[n,3] i) => (float[n,3,8] y) { e = Gather (table, i) y = MatMul (e, w) }",
        {"table": normal(10, 8), "w": normal(8, 8)},
        {"i": RNG.integers(0, 10, (5, 3))},
    ),
}


def build(case: str) -> tuple[ir.Model, Feeds]:
    text, weights, feeds = CASES[case]
    return parse(text, **weights), feeds


def plan_for(model: ir.Model, feeds: Feeds, mode: str) -> Plan:
    recurrent = [n.op_type for n in model.graph if n.op_type in ("LSTM", "GRU")]
    options = Options(mode=mode, overrides=dict.fromkeys(recurrent, mode))  # type: ignore[arg-type]
    return choose(model.graph, options, observe(model, [feeds]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("case", CASES)
def test_quantized_output_is_close_to_float(case: str, mode: str, target: Target) -> None:
    model, feeds = build(case)
    quantized = emit(model, plan_for(model, feeds, mode), target)
    onnx.checker.check_model(ir.to_proto(quantized), full_check=target == "portable")
    for exact, close in zip(run(model, feeds), run(quantized, feeds), strict=True):
        assert exact.shape == close.shape
        assert sqnr(exact, close) > 30


@pytest.mark.parametrize("mode", ["static", "dynamic"])
@pytest.mark.parametrize("case", CASES)
def test_weights_are_stored_as_integers(case: str, mode: str) -> None:
    model, feeds = build(case)
    quantized = emit(model, plan_for(model, feeds, mode))
    initializers = quantized.graph.initializers
    weights = [name for name in CASES[case][1] if not name.startswith("b")]
    assert not set(weights) & set(initializers)
    assert all(initializers[f"{name}_quantized"].dtype == ir.DataType.INT8 for name in weights)


@pytest.mark.parametrize("case", [c for c in CASES if c not in ("embedding",)])
def test_dynamic_result_does_not_depend_on_the_batch(case: str) -> None:
    model, feeds = build(case)
    quantized = emit(model, plan_for(model, feeds, "dynamic"))
    axis = 1 if case in ("lstm", "gru") else 0
    together = run(quantized, feeds)[0]
    scaled = {"x": np.concatenate([feeds["x"], 100 * feeds["x"]], axis)}
    beside = run(quantized, scaled)[0]
    batch = 2 if axis == 1 else 0
    np.testing.assert_array_equal(together, beside.take(range(5), batch))


def test_the_same_result_without_vnni() -> None:
    model, feeds = build("conv")
    plan = plan_for(model, feeds, "static")
    plain, unsigned = (emit(model, plan, t) for t in ("onnxruntime", "onnxruntime-no-vnni"))
    kinds = {v.const_value.dtype for v in unsigned.graph.initializers.values() if v.const_value}
    assert ir.DataType.INT8 not in kinds
    np.testing.assert_array_equal(run(plain, feeds)[0], run(unsigned, feeds)[0])


def test_emission_is_deterministic_and_leaves_the_graph_alone() -> None:
    model, feeds = build("conv")
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    plan = plan_for(model, feeds, "static")
    first, second = (
        ir.to_proto(emit(model, plan)).SerializeToString(deterministic=True) for _ in range(2)
    )
    assert first == second
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_mixed_plan_runs(tmp_path: Path) -> None:
    model, feeds = build("conv")
    options = Options(mode="static", overrides={"y": "dynamic"})
    plan = choose(model.graph, options, observe(model, [feeds]))
    assert {plan["a"].mode, plan["y"].mode} == {"static", "dynamic"}
    quantized = emit(model, plan)
    assert sqnr(run(model, feeds)[0], run(quantized, feeds)[0]) > 30


def test_plan_of_another_model_is_refused() -> None:
    model, _ = build("gemm")
    plan = Plan({"elsewhere": Decision("float", "Conv", "")})
    with pytest.raises(PlanError, match="'elsewhere'"):
        emit(model, plan)


def test_unknown_target_is_refused() -> None:
    model, _ = build("gemm")
    with pytest.raises(PlanError, match="portable"):
        emit(model, Plan({}), "tensorrt")  # type: ignore[arg-type]


def test_bias_that_does_not_fit_is_refused() -> None:
    model, _ = build("gemm")
    tiny = QParams(np.full(8, 1e-20, np.float32), np.zeros(8, np.int32), "int8", 0)
    x = QParams(np.float32(1e-3), np.int32(0))
    plan = Plan({"y": Decision("static", "Gemm", "", {"x": x, "w": tiny})})
    with pytest.raises(PlanError, match="bias.*does not fit int32"):
        emit(model, plan)


def test_near_dead_channels_leave_room_for_their_bias() -> None:
    weight, bias = normal(8, 16), normal(8)
    weight[3] *= 1e-12
    weight[5] = 0
    model = parse(CASES["gemm"][0], w=weight, b=bias)
    feeds = CASES["gemm"][2]
    quantized = emit(model, plan_for(model, feeds, "static"))
    assert sqnr(run(model, feeds)[0], run(quantized, feeds)[0]) > 30


def test_lstm_with_given_states_and_all_outputs() -> None:
    model = parse(
        """m (float[t,n,6] x, float[1,n,5] h0, float[1,n,5] c0)
            => (float[t,1,n,5] y, float[1,n,5] h, float[1,n,5] c) {
            y, h, c = LSTM <hidden_size=5> (x, w, r, b, , h0, c0)
        }""",
        w=normal(1, 20, 6),
        r=normal(1, 20, 5),
        b=normal(1, 40),
    )
    state = np.tanh(normal(1, 3, 5))
    feeds: Feeds = {"x": normal(4, 3, 6), "h0": state, "c0": normal(1, 3, 5)}
    for target in TARGETS:
        quantized = emit(model, choose(model.graph, Options(mode="dynamic")), target)
        for exact, close in zip(run(model, feeds), run(quantized, feeds), strict=True):
            assert sqnr(exact, close) > 30
