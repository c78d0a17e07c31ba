"""Segments that run elsewhere: whatever is wrong with them, one error of intact's own."""

import contextlib
import random
from typing import Any

import numpy as np
import onnx
import pytest

import intact
from intact.capture.file import read_model
from intact.core.errors import InputError, IntactError, RuntimeUnavailable
from intact.engine.compile import Model
from intact.run.native import NativeSession
from tests.engine.build import Graph, needs_native, qparams, weight
from tests.hostile.fuzz import mutate

pytestmark = needs_native


def with_segment() -> Graph:
    """An embedding, a product, an operator elsewhere, another product."""
    graph, rng = Graph(), np.random.default_rng(0)
    graph.input("ids", np.array([[1, 5], [2, -1]]))
    table = graph.constant("table", rng.integers(-128, 128, (9, 8)).astype(np.int8))
    graph.node("Cast", [graph.node("Gather", [table, "ids"], "rows")], "real", to=1)
    scales = graph.constant("scales", rng.random((9, 1), np.float32))
    graph.node("Mul", ["real", graph.node("Gather", [scales, "ids"], "s")], "e")
    e = graph.quantized("e", qparams(0.3, 128))
    graph.node("MatMul", [e, graph.weight("w", *weight(rng, (8, 6), 1))], "m")
    graph.node("Cos", ["m"], "c")
    graph.node("Reshape", ["c", graph.constant("shape", np.array([-1, 6]))], "r")
    r = graph.quantized("r", qparams(1 / 127, 128))
    graph.node("MatMul", [r, graph.weight("v", *weight(rng, (6, 4), 1))], "y")
    return graph


def session(proto: onnx.ModelProto) -> NativeSession:
    return NativeSession(read_model(proto.SerializeToString()), 2)


def test_the_model_is_sound() -> None:
    graph = with_segment()
    ours = session(graph.proto(["y"]))
    theirs = intact.QuantizedModel(graph.proto(["y"]).SerializeToString(), 1, "onnxruntime")
    np.testing.assert_allclose(
        ours.run(graph.inputs)[0], theirs.run(graph.inputs)[0], rtol=1e-4, atol=1e-5
    )
    assert ours.elsewhere == ("c",)


@pytest.mark.parametrize("seed", range(4))
def test_mutated_segments_are_run_or_refused(seed: int) -> None:
    rng, ran, graph = random.Random(seed), 0, with_segment()
    proto = graph.proto(["y"])
    for _ in range(100):
        changed = mutate(proto, rng)
        if changed is None:
            continue
        with contextlib.suppress(IntactError):
            intact.QuantizedModel(changed.SerializeToString(), 2, "native").run(graph.inputs)
            ran += 1
    assert ran > 5


@pytest.mark.parametrize("wrong", [9, -10, 2**62])
def test_an_index_beyond_a_table_is_an_input_error_and_the_session_goes_on(wrong: int) -> None:
    graph = with_segment()
    model = intact.QuantizedModel(graph.proto(["y"]).SerializeToString(), 2)
    expected = model.run(graph.inputs)[0]
    for _ in range(2):
        with pytest.raises(InputError, match=f"looks up index {wrong}"):
            model.run({"ids": np.array([[1, wrong], [0, 0]])})
        np.testing.assert_array_equal(model.run(graph.inputs)[0], expected)
    assert model.runtime == "native"


def returning(*arrays: Any) -> Any:
    """A runtime that computes other than it should."""
    return lambda content: lambda feeds: list(arrays)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2, 5), np.float32),
        np.zeros(6, np.float32),
        np.zeros((), np.float32),
        np.zeros((0, 2, 6), np.float32),
        np.zeros((2, 2, 6), np.float64),
        np.zeros((2, 2, 6), np.int64),
        np.full((2, 2, 6), "x"),
    ],
)
def test_what_a_segment_returns_is_not_trusted(array: Any) -> None:
    graph = with_segment()
    model = Model(graph.proto(["y"]), 1, returning(array))
    with contextlib.suppress(IntactError):  # it may fit somewhere
        model.run(graph.inputs)


def test_a_segment_that_fails_is_one_error() -> None:
    graph = with_segment()
    graph.constants["shape"] = np.array([5, 7])
    graph.nodes[-5].input[0] = "c"
    graph.node("Cos", ["r"], "unused")
    with pytest.raises(RuntimeUnavailable):
        session(graph.proto(["y"])).run(graph.inputs)


def test_unsorted_and_circular_graphs_are_refused() -> None:
    for order in (slice(None, None, -1), slice(1, None)):
        graph = with_segment()
        graph.nodes[:] = graph.nodes[order]
        with pytest.raises(RuntimeUnavailable):
            session(graph.proto(["y"])).run(graph.inputs)
    graph = with_segment()
    next(node for node in graph.nodes if node.op_type == "Cos").input[0] = "y"
    with pytest.raises(RuntimeUnavailable):
        session(graph.proto(["y"])).run(graph.inputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": (0, 0, 8)}, "too small"),
        ({"indices": (0, 64, 8)}, "too small"),
        ({"y": (1, 0, 64)}, "write to an input"),
        ({"y": (0, 128, 8)}, "too small"),
        ({"scales": (0, 192, 4)}, "too few scales"),
        ({"sizes": (0, 2, 2, 4)}, "is empty"),
        ({"sizes": (1, 2**62, 2, 4)}, "too large"),
        ({"type": "int4"}, "neither float32, int64 nor"),
        ({"zero_point": -(2**31)}, "not of 8 bits"),
    ],
)
def test_a_gather_that_does_not_hold_together_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "label": "g", "table": (0, 0, 64), "indices": (0, 64, 64), "y": (0, 128, 64),
        "scales": None, "sizes": (1, 2, 2, 4), "type": "float32", "scale": 1.0, "zero_point": 0,
        "name": "g",
    }  # fmt: skip
    program().gather(**arguments)
    with pytest.raises(ValueError, match=message):
        program().gather(**(arguments | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Cosh:float32"}, "unknown"),
        ({"name": "Not:int64"}, "number of operands"),
        ({"x": [((0, 0, 64), 0, (8, 1)), ((0, 64, 64), 0, (8, 2))]}, "outside its tensor"),
        ({"x": [((0, 0, 64), 0, (8, 1)), ((0, 64, 64), 2**62, (0, 0))]}, "outside its tensor"),
        ({"x": [((0, 0, 64), 0, (8, 1)), ((0, 64, 64), 0, (0,))]}, "another rank"),
        ({"y": ((1, 0, 64), 0, (8, 1))}, "write to an input"),
        ({"y": ((0, 128, 64), 1, (8, 1))}, "outside its tensor"),
        ({"shape": ()}, "another rank|scalar"),
        ({"shape": (2, 0)}, "is empty"),
        ({"name": "Add:int64"}, "outside its tensor"),
    ],
)
def test_a_small_operator_that_does_not_hold_together_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {
        "label": "e", "name": "Add:float32", "shape": (2, 8), "y": ((0, 128, 64), 0, (8, 1)),
        "x": [((0, 0, 64), 0, (8, 1)), ((0, 64, 64), 0, (8, 1))],
    }  # fmt: skip
    program().elementwise(**arguments)
    with pytest.raises(ValueError, match=message):
        program().elementwise(**(arguments | changes))


def program() -> Any:
    from intact.core.native import native

    assert native is not None
    return native.Program(native.Engine.create(1, ""), 4096, [512], [512])
