"""Comparison and inspection: each figure is what it says, and faults are named."""

import json
import math
from typing import Any

import numpy as np
import pytest

import intact
from intact.core.errors import InputError
from intact.core.native import native
from intact.evaluate.fidelity import Fidelity, agreement, cosine, sqnr_db
from intact.evaluate.latency import interleaved, speedup
from intact.evaluate.operators import operators
from tests.calibrate.test_calibrate import IMAGES, cnn, text, tokens

RNG = np.random.default_rng(0)
NATIVE = pytest.mark.skipif(native is None, reason="the native part is not built")


@pytest.fixture(scope="module")
def models() -> dict[str, intact.QuantizedModel]:
    return {
        "static": intact.quantize(cnn(), calibration=[IMAGES]),
        "dynamic": intact.quantize(cnn(), mode="dynamic"),
        "runtime": intact.quantize(cnn(), mode="dynamic", target="onnxruntime"),
    }


def test_sqnr_of_known_noise() -> None:
    x = np.ones((10, 10), np.float32)
    assert sqnr_db(x, x + np.float32(0.1)) == pytest.approx(20, abs=1e-3)
    assert sqnr_db(x, x) == math.inf
    assert sqnr_db(np.zeros(3), np.ones(3)) == -math.inf


def test_cosine_and_agreement_of_known_outputs() -> None:
    x = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert cosine(x, 3 * x) == pytest.approx(1)
    assert cosine(x, x[:, ::-1]) == pytest.approx(0)
    assert agreement(x, x[:, ::-1]) == 0
    assert agreement(x, x + 1) == 1


def test_fidelity_in_batches_is_fidelity_at_once() -> None:
    x = RNG.normal(size=(20, 5))
    y = x + RNG.normal(size=(20, 5)) / 10
    whole, parts = Fidelity(), Fidelity()
    whole.add(x, y)
    for i in range(0, 20, 3):
        parts.add(x[i : i + 3], y[i : i + 3])
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db) == pytest.approx(sqnr_db(x, y))
    assert parts.cosine == pytest.approx(whole.cosine)
    assert parts.agreement == whole.agreement == agreement(x, y)
    assert parts.largest_error == whole.largest_error == np.abs(x - y).max()


def test_every_model_runs_equally_often_and_in_turn() -> None:
    order: list[str] = []
    times = interleaved({n: lambda n=n: order.append(n) for n in "ab"}, 7)  # type: ignore[misc]
    turns = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
    assert turns == ["a", "b"] * 3  # to start with, then five of each and the last two
    assert {name: len(t) for name, t in times.items()} == {"a": 7, "b": 7}
    assert speedup([4.0, 6.0, 8.0], [2.0, 2.0, 2.0]) == 3


def test_what_runs_as_int8_is_read_from_the_runtime(models: dict[str, Any]) -> None:
    in_onnxruntime = {
        name: intact.QuantizedModel(model.content, runtime="onnxruntime")
        for name, model in models.items()
    }
    ran = {name: {op.name: op.runs_as for op in operators(m)} for name, m in in_onnxruntime.items()}
    assert ran["static"] == {"a": "QLinearConv", "y": "QGemm"}
    assert ran["dynamic"] == {"a": "ConvInteger", "y": "MatMulInteger"}
    assert ran["runtime"]["a"] in ("Conv", "FusedConv")
    assert ran["runtime"]["y"] in ("DynamicQuantizeMatMul", "MatMulIntegerToFloat")
    assert "QLinearConv" in str(intact.inspect(in_onnxruntime["static"]))


@NATIVE
def test_what_runs_as_int8_is_read_from_the_native_program(models: dict[str, Any]) -> None:
    ran = {
        name: {op.name: (op.runs_as, op.integer) for op in operators(models[name])}
        for name in ("static", "dynamic")
    }
    assert ran["static"] == {"a": ("convolution", True), "y": ("real_convolution", True)}
    assert ran["dynamic"] == {"a": ("real_convolution", True), "y": ("real_convolution", True)}
    assert "run as int8 in intact's engine" in str(intact.inspect(models["static"]))


def test_work_is_counted(models: dict[str, Any]) -> None:
    for model in models.values():
        assert {op.name: op.macs for op in operators(model)} == {
            "a": 4 * 8 * 8 * 3 * 3 * 3,
            "y": 4 * 2,
        }


def test_comparison_holds_every_figure(models: dict[str, Any]) -> None:
    labels = RNG.integers(0, 2, 12)
    data = [(IMAGES[i : i + 4], labels[i : i + 4]) for i in range(0, 12, 4)]
    result = intact.compare(cnn(), models, data, metric="top1", repetitions=3)
    assert [row.name for row in result.rows] == ["float", *models]
    exact = result["float"]
    assert exact.fidelity[0].sqnr_db == math.inf and exact.speedup == 1
    for name in models:
        row = result[name]
        assert row.size == models[name].size and row.operators == 2
        assert row.fidelity[0].sqnr_db > 20 and row.fidelity[0].cosine > 0.99
        assert row.accuracy is not None and row.drop == exact.accuracy - row.accuracy
    assert result["static"].batch_dependence == result["dynamic"].batch_dependence == 0
    assert result["runtime"].batch_dependence > 0
    assert "2 of 2" in str(result)
    json.dumps(result.to_dict())


def test_metric_may_be_a_function(models: dict[str, Any]) -> None:
    def mean_score(model: Any) -> float:
        return float(model(IMAGES).mean())

    result = intact.compare(
        cnn(), {"static": models["static"]}, [IMAGES], metric=mean_score, repetitions=1
    )
    assert result.metric == "mean_score"
    assert result["static"].accuracy == pytest.approx(float(models["static"](IMAGES).mean()))


def test_limits_are_checked(models: dict[str, Any]) -> None:
    result = intact.compare(cnn(), {"static": models["static"]}, [IMAGES], repetitions=1)
    assert result.check() == []
    assert "speedup" in result.check(min_speedup=1e9)[0]
    assert result.check(max_drop=100) == []
    assert "drop" in result.check(max_drop=-1)[0]


def test_drop_without_labels_or_classes_cannot_be_limited() -> None:
    batch = tokens([3, 5, 7, 2, 6, 4, 8, 9], 9)
    quantized = intact.quantize(text(), calibration=[batch])
    result = intact.compare(text(), {"static": quantized}, [batch], repetitions=1)
    with pytest.raises(InputError, match="limit on the drop"):
        result.check(max_drop=1)


def test_slower_model_is_said_to_be(models: dict[str, Any]) -> None:
    from dataclasses import replace

    from intact.evaluate.compare import Comparison

    result = intact.compare(cnn(), {"static": models["static"]}, [IMAGES], repetitions=1)
    slow = replace(result["static"], speedup=0.21)
    assert "static is slower than float: 0.21x" in str(Comparison((result.rows[0], slow), None))


@pytest.mark.parametrize(
    ("data", "metric", "message"),
    [
        ([], None, "data is empty"),
        ([IMAGES], "top1", "needs labels"),
        ([(IMAGES, np.zeros(5, int))], "top1", r"labels have shape \(5,\)"),
    ],
)
def test_bad_comparison_data_is_named(
    models: dict[str, Any], data: Any, metric: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        intact.compare(cnn(), {"s": models["static"]}, data, metric=metric, repetitions=1)


def test_models_of_different_kinds_are_refused(models: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="compare versions of one model"):
        intact.compare(text(), {"cnn": models["static"]}, [tokens([3], 3)], repetitions=1)


def test_inspection_names_every_operator(models: dict[str, Any]) -> None:
    inspection = intact.inspect(models["static"])
    rows = {row.name: row for row in inspection.rows}
    assert set(rows) == set(models["static"].decisions)
    assert rows["a"].input_dtype == "uint8" and rows["a"].weight_dtype == "int8"
    assert rows["a"].weight_bytes == 4 * 3 * 3 * 3
    assert rows["a"].scale is not None and rows["a"].zero_point is not None
    assert sum(row.macs_share for row in rows.values()) == pytest.approx(1)
    assert inspection.integer_share == pytest.approx(1)
    assert inspection.runtime == models["static"].runtime
    json.dumps(inspection.to_dict())
    dynamic = intact.inspect(models["dynamic"])
    assert {row.scale for row in dynamic.rows} == {None}
    assert "at run time" in str(dynamic)


def test_file_of_another_tool_can_be_inspected() -> None:
    import onnx_ir as ir

    inspection = intact.inspect(intact.QuantizedModel(ir.to_proto(cnn()).SerializeToString()))
    assert {row.runs_as for row in inspection.rows} <= {"Conv", "FusedConv", "Gemm", "FusedGemm"}
    assert inspection.integer_share == 0
