"""Operators that the engine does not know run elsewhere, and the results are the same."""

from typing import Any

import numpy as np
import onnx
import pytest

import intact
from intact.core.errors import RuntimeUnavailable
from tests.engine.build import Graph, dynamic_call, needs_native, qparams, weight

pytestmark = needs_native


def product(graph: Graph, x: str, y: str, k: int, n: int) -> str:
    """A static matrix product of `x`, [.., k], that gives [.., n]."""
    rng = np.random.default_rng(k * n)
    held = graph.quantized(x, qparams(0.02, 128))
    return graph.node("MatMul", [held, graph.weight(f"{y}_w", *weight(rng, (k, n), 1))], y)


def check(graph: Graph, outputs: list[str], elsewhere: list[str]) -> intact.QuantizedModel:
    """The same with and without segments; `elsewhere` are the operators that run elsewhere."""
    content = graph.proto(outputs).SerializeToString()
    ours = intact.QuantizedModel(content, 2, "native")
    theirs = intact.QuantizedModel(content, 2, "onnxruntime").run(graph.inputs)
    for found, expected in zip(ours.run(graph.inputs), theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert list(ours.session.elsewhere) == elsewhere
    return ours


def start() -> tuple[Graph, str]:
    graph = Graph()
    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)
    return graph, graph.input("x", x)


def test_before_between_and_behind() -> None:
    graph, x = start()
    product(graph, graph.node("Cos", [x], "before"), "a", 8, 16)
    product(graph, graph.node("Sin", ["a"], "between"), "b", 16, 8)
    graph.node("Cos", ["b"], "behind")
    model = check(graph, ["behind"], ["before", "between", "behind"])
    native = model.session.native
    assert native is not None
    elsewhere = [getattr(p, "names", None) for p in native.executable(graph.inputs).parts]
    assert elsewhere == [("before",), None, ("between",), None, ("behind",)]


def test_a_border_is_float_where_the_value_is_quantized() -> None:
    """The reader elsewhere gets what the integers stand for."""
    graph, x = start()
    product(graph, x, "a", 8, 16)
    held = graph.quantized("a", qparams(0.03, 100))
    product(graph, graph.node("Sin", [held], "s"), "b", 16, 8)
    graph.node("Add", [held, held], "twice")
    check(graph, ["b", "twice"], ["s"])


def test_quantization_that_the_engine_does_not_know_takes_its_readers_along() -> None:
    """Integers do not cross a border."""
    graph, x = start()
    product(graph, x, "a", 8, 16)
    scale = graph.constant("scale", np.full(16, 0.05, np.float32))
    point = graph.constant("point", np.full(16, 120, np.uint8))
    graph.node("QuantizeLinear", ["a", scale, point], "q", axis=-1)
    graph.node("DequantizeLinear", ["q", scale, point], "dq", axis=-1)
    product(graph, "dq", "b", 16, 8)
    check(graph, ["b"], ["q", "dq"])


def test_what_lies_between_runs_elsewhere_too() -> None:
    """A normalization that is written out: one segment."""
    graph, x = start()
    product(graph, x, "a", 8, 16)
    axes = graph.constant("axes", np.array([-1]))
    graph.node("ReduceL1", ["a", axes], "mean")
    graph.node("Sub", ["a", "mean"], "centered")
    graph.node("Atan", ["centered"], "squares")
    graph.node("ReduceL1", ["squares", axes], "variance")
    graph.node("Sqrt", ["variance"], "deviation")
    graph.node("Div", ["centered", "deviation"], "normal")
    product(graph, "normal", "b", 16, 8)
    model = check(graph, ["b"], ["mean", "centered", "squares", "variance"])
    assert model.session.native is not None


def test_shapes_that_a_segment_needs_are_given_to_it() -> None:
    graph, x = start()
    product(graph, x, "a", 8, 16)
    shape = graph.node("Shape", ["a"], "shape")
    graph.node("Reshape", [graph.node("Cos", ["x"], "c"), graph.constant("flat", [-1])], "r")
    graph.node("ReduceL1", ["r", graph.constant("axes", np.array([0]))], "sum", keepdims=1)
    graph.node("Expand", ["sum", shape], "wide")
    graph.node("Sin", ["wide"], "s")
    product(graph, graph.node("Add", ["a", "s"], "both"), "b", 16, 8)
    check(graph, ["b"], ["c", "r", "sum", "wide", "s"])


def test_dynamic_functions_go_with_their_segment() -> None:
    """A convolution of four spatial dimensions, as a call of intact's function."""
    graph = Graph()
    rng = np.random.default_rng(0)
    x = graph.input("x", rng.standard_normal((1, 2, 2, 4, 4, 2)).astype(np.float32))
    w = weight(rng, (2, 2, 1, 1, 1, 1), 0)[0]
    scale = np.full(2, 0.01, np.float32)
    dynamic_call(
        graph, "DynamicConv", x, w, scale, axes=[1, 2, 3, 4, 5], strides=[1] * 4,
        dilations=[1] * 4, group=1, pads=[0] * 12,
    )  # fmt: skip
    graph.node("Flatten", ["product"], "flat")
    product(graph, "flat", "y", 128, 64)
    proto = graph.proto(["y"])
    import onnx_ir as ir

    from intact.emit.functions import function

    proto.functions.append(ir.to_proto(function("DynamicConv")))
    proto.opset_import[1].version = proto.functions[0].opset_import[-1].version
    content = proto.SerializeToString()
    ours = intact.QuantizedModel(content, 2, "native")
    theirs = intact.QuantizedModel(content, 2, "onnxruntime")
    found, expected = (model.run(graph.inputs)[0] for model in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert "product" in ours.session.elsewhere


def test_whole_numbers_cross_a_border() -> None:
    graph, x = start()
    product(graph, x, "a", 8, 16)
    graph.node("ArgMax", ["a"], "best", axis=-1, keepdims=0)
    table = graph.constant("table", np.random.default_rng(1).random((16, 8), np.float32))
    product(graph, graph.node("Gather", [table, "best"], "rows"), "b", 8, 8)
    check(graph, ["b"], ["best"])


def test_masks_cross_a_border() -> None:
    graph, x = start()
    graph.input("lengths", np.array([[1], [3]]))
    positions = graph.constant("positions", np.arange(3)[None])
    graph.node("Less", [positions, "lengths"], "mask")
    product(graph, x, "a", 8, 16)
    graph.node("Unsqueeze", ["mask", graph.constant("axes", np.array([2]))], "m")
    graph.node("Compress", ["a", graph.constant("kept", np.ones(16, bool))], "c", axis=2)
    graph.node("Where", ["m", "c", graph.constant("zero", np.float32(0))], "w")
    product(graph, "w", "b", 16, 8)
    check(graph, ["b"], ["c"])


def test_a_condition_is_a_segment() -> None:
    """Control flow that reads what is outside of it."""
    graph, x = start()
    product(graph, x, "a", 8, 16)
    branches = [
        onnx.helper.make_graph(
            [onnx.helper.make_node(op_type, ["a"], [f"{op_type}_y"])],
            op_type, [], [onnx.helper.make_tensor_value_info(f"{op_type}_y", 1, None)],
        )
        for op_type in ("Cos", "Sin")
    ]  # fmt: skip
    graph.node("ReduceL1", ["a"], "sum", keepdims=0)
    graph.node("Greater", ["sum", graph.constant("zero", np.float32(0))], "positive")
    graph.node("If", ["positive"], "chosen", then_branch=branches[0], else_branch=branches[1])
    product(graph, "chosen", "b", 16, 8)
    check(graph, ["b"], ["sum", "positive", "chosen"])


def test_shapes_that_vary_with_the_data_are_compiled_anew() -> None:
    graph, _ = start()
    product(graph, "x", "a", 8, 16)
    graph.node("Reshape", ["a", graph.constant("rows", np.array([-1, 16]))], "flat")
    graph.node(
        "ReduceLogSumExp", ["flat", graph.constant("axis", np.array([1]))], "most", keepdims=0
    )
    graph.node("Greater", ["most", graph.constant("least", np.float32(4))], "kept")
    graph.node("Compress", ["flat", "kept"], "c", axis=0)
    product(graph, "c", "b", 16, 8)
    content = graph.proto(["b"]).SerializeToString()
    ours = intact.QuantizedModel(content, 1, "native")
    theirs = intact.QuantizedModel(content, 1, "onnxruntime")
    rows = set()
    for seed in range(6):
        x = np.random.default_rng(seed).standard_normal((2, 3, 8)).astype(np.float32)
        expected = theirs.run({"x": x})[0]
        if len(expected):
            np.testing.assert_allclose(ours.run({"x": x})[0], expected, rtol=1e-4, atol=1e-5)
            rows.add(len(expected))
    assert len(rows) > 1


def test_a_model_whose_work_is_mostly_elsewhere_is_refused() -> None:
    graph, x = start()
    product(graph, x, "a", 8, 16)
    big = graph.constant("big", np.ones((16, 64), np.float32))
    graph.node("MatMul", [graph.node("Cos", ["a"], "c"), big], "m")
    graph.node("Sin", ["m"], "y")
    content = graph.proto(["y"]).SerializeToString()
    with pytest.raises(RuntimeUnavailable, match="operator 'm' multiplies"):
        intact.QuantizedModel(content, 1, "native").run(graph.inputs)
    assert intact.QuantizedModel(content, 1).run(graph.inputs)[0].shape == (2, 3, 64)


def test_too_many_segments_are_refused() -> None:
    graph, x = start()
    for i in range(6):
        x = product(graph, graph.node("Cos", [x], f"c{i}"), f"m{i}", 8, 8)
    content = graph.proto([x]).SerializeToString()
    with pytest.raises(RuntimeUnavailable, match="operator 'c0' is a Cos"):
        intact.QuantizedModel(content, 1, "native").run(graph.inputs)


def test_inspect_and_the_program_say_what_runs_elsewhere() -> None:
    from intact.evaluate.profile import profile, program_text

    graph, x = start()
    product(graph, x, "a", 8, 16)
    product(graph, graph.node("Cos", ["a"], "c"), "b", 16, 8)
    model = intact.QuantizedModel(graph.proto(["b"]).SerializeToString(), 1, "native")
    assert "c = elsewhere(c)" in program_text(model)
    assert "1 operators run in ONNX Runtime: c" in str(intact.inspect(model))
    steps: Any = profile(model, 1, 2)
    assert any(label == "elsewhere c" and seconds > 0 for label, seconds in steps)
