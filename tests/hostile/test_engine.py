"""The native engine refuses what does not hold together, and nothing makes it crash."""

import random
import shutil
from typing import Any

import numpy as np
import pytest

import intact
from intact.core.errors import InputError, RuntimeUnavailable
from intact.core.native import native
from tests.engine.build import Graph, activation, needs_native, qparams, weight
from tests.hostile.fuzz import mutate, seeds, survives

WINDOWS = (1, 4, 4, 8, 4, 4, 1, 1, 1, 1, 1, 1, 0, 0)


def test_the_native_part_is_built_where_there_is_a_compiler() -> None:
    """A fault in the build would otherwise go unseen: the package installs without it."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler on this machine")
    assert native is not None


@needs_native
@pytest.mark.parametrize("seed", range(4))
def test_mutated_models_are_run_or_refused(seed: int) -> None:
    rng, ran = random.Random(seed), 0
    models = list(seeds())
    assert all(survives(*model) for model in models)
    for _ in range(300):
        proto, feeds = rng.choice(models)
        changed = mutate(proto, rng)
        ran += changed is not None and survives(changed, feeds)
    assert ran > 10  # some mutations leave a sound model


def program(arena: int = 4096) -> Any:
    assert native is not None
    return native.Program(native.Engine.create(1, ""), arena, [512], [512])


def convolve(target: Any, **changes: Any) -> None:
    assert native is not None
    engine = native.Engine.create(1, "")
    arguments: dict[str, Any] = {
        "label": "c", "x": (0, 0, 128), "y": (0, 128, 128), "windows": WINDOWS, "x_zero_point": 0,
        "weights": native.Packed.pack(engine, np.ones((1, 8, 8), np.int8), (1,) * 6),
        "bias": np.zeros(8, np.int32), "scale": np.ones(8, np.float32), "clamp": (0.0, 255.0, 0),
        "table": None, "addend": None, "within": None,
    }  # fmt: skip
    target.convolution(**(arguments | changes))


@needs_native
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": (0, 4032, 128)}, "outside the arena"),
        ({"x": (0, 2**63, 128)}, "outside the arena"),
        ({"x": (0, 32, 128)}, "not aligned"),
        ({"x": (1, 0, 512)}, "reads the arena"),
        ({"x": (7, 0, 128)}, "no known space"),
        ({"y": (1, 0, 128)}, "write to an input"),
        ({"y": (2, 3, 128)}, "outside its output"),
        ({"y": (0, 128, 64)}, "output is too small"),
        ({"x": (0, 0, 64)}, "input is too small"),
        ({"windows": (*WINDOWS[:3], 9, *WINDOWS[4:])}, "do not fit"),
        ({"windows": (0, *WINDOWS[1:])}, "no values"),
        ({"windows": (*WINDOWS[:4], 2**40, *WINDOWS[5:])}, "too large"),
        ({"windows": (*WINDOWS[:8], 0, *WINDOWS[9:])}, "stride or dilation is zero"),
        ({"x_zero_point": 256}, "no uint8"),
        ({"bias": np.zeros(7, np.int32)}, "another size"),
        ({"clamp": (0.0, 256.0, 0)}, "no uint8"),
        ({"clamp": (float("nan"), 255.0, 0)}, "no uint8"),
        ({"table": np.zeros(255, np.uint8)}, "256 entries"),
        ({"within": (8, 1)}, "do not fit the row"),
        ({"within": (2**62, 0)}, "too large"),
        ({"within": (16, 0)}, "output is too small"),
        ({"x": (3, 0, 128)}, "a chain that has not begun"),
    ],
)
def test_a_step_that_does_not_hold_together_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    convolve(program())
    with pytest.raises(ValueError, match=message):
        convolve(program(), **changes)


def recur(target: Any, direction: dict[str, Any], **changes: Any) -> None:
    """One LSTM of 2 time steps, 3 sequences and 2 units over the arena."""
    assert native is not None
    weights = native.RecurrentWeights.pack_reals(np.ones((4, 2, 2), np.float32), None)
    parts: dict[str, Any] = {
        "weights": weights,
        "from_x": ((0, 0, 192), 0, [24, 8, 1]), "h0": ((1, 0, 512), 0, [2, 1]),
        "c0": ((1, 0, 512), 6, [2, 1]), "y": ((0, 192, 48), 0, [6, 2, 1]),
        "h": ((0, 256, 24), 0, [2, 1]), "c": ((2, 0, 512), 0, [2, 1]), "reverse": True,
    }  # fmt: skip
    arguments: dict[str, Any] = {"label": "r", "cell": "lstm", "time": 2, "batch": 3, "hidden": 2}
    directions = [tuple((parts | direction).values())]
    target.recurrence(**(arguments | {"directions": directions} | changes))


@needs_native
@pytest.mark.parametrize(
    ("direction", "changes", "message"),
    [
        ({"from_x": ((0, 0, 188), 0, [24, 8, 1])}, {}, "outside its tensor"),
        ({"from_x": ((0, 0, 192), 1, [24, 8, 1])}, {}, "outside its tensor"),
        ({"from_x": ((0, 0, 192), 0, [24, 4, 2])}, {}, "not adjacent"),
        ({"from_x": ((0, 0, 192), 0, [24, 8])}, {}, "another rank"),
        ({"from_x": ((0, 0, 192), 0, [2**62, 8, 1])}, {}, "too large"),
        ({"h0": ((1, 0, 512), 2**62, [2, 1])}, {}, "outside its tensor"),
        ({"h0": ((1, 3, 512), 0, [2, 1])}, {}, "outside its input"),
        ({"c0": ((1, 0, 516), 6, [2, 1])}, {}, "outside its input"),
        ({"c0": None}, {}, "cell state"),
        ({"c": None}, {}, "cell state"),
        ({"y": ((1, 0, 512), 0, [6, 2, 1])}, {}, "write to an input"),
        ({"y": ((0, 192, 44), 0, [6, 2, 1])}, {}, "outside its tensor"),
        ({"h": ((0, 256, 64), 0, [3, 1])}, {}, "has gaps"),
        ({"c": ((0, 4090, 24), 0, [2, 1])}, {}, "outside the arena"),
        ({}, {"time": 3}, "outside its tensor"),
        ({}, {"time": 0}, "empty"),
        ({}, {"time": 2**62}, "too large"),
        ({}, {"batch": 4}, "outside its tensor"),
        ({}, {"batch": 0}, "empty"),
        ({}, {"hidden": 3}, "weights do not fit"),
        ({}, {"cell": "gru"}, "weights do not fit"),
        ({}, {"cell": "rnn"}, "cell is unknown"),
        ({}, {"directions": []}, "no direction"),
    ],
)
def test_a_recurrence_that_does_not_hold_together_is_refused(
    direction: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    recur(program(), {})
    with pytest.raises(ValueError, match=message):
        recur(program(), direction, **changes)


@needs_native
def test_weights_of_a_recurrence_that_do_not_fit_are_refused() -> None:
    assert native is not None
    engine, other = (native.Engine.create(1, isa) for isa in ("", "portable"))
    pack, scale = native.RecurrentWeights.pack, np.ones(8, np.float32)
    gates = np.ones((4, 2, 2), np.int8)
    with pytest.raises(ValueError, match="not square"):
        pack(engine, np.ones((4, 2, 3), np.int8), scale, None)
    with pytest.raises(ValueError, match="are empty"):
        pack(engine, np.ones((0, 2, 2), np.int8), np.ones(0, np.float32), None)
    for wrong in ({"scale": scale[1:], "bias": None}, {"scale": scale, "bias": scale[1:]}):
        with pytest.raises(ValueError, match="another size than its gates"):
            pack(engine, gates, **wrong)
    if len(native.instruction_sets()) > 1:
        with pytest.raises(ValueError, match="another instruction set"):
            recur(program(), {"weights": pack(other, gates, scale, None)})


@needs_native
def test_inputs_and_outputs_of_another_size_are_refused() -> None:
    target = program()
    right, wrong = np.zeros(128, np.float32), np.zeros(127, np.float32)
    target.run([right], [right.copy()])
    for inputs, outputs in (([wrong], [right]), ([right], [wrong]), ([], [right])):
        with pytest.raises(ValueError, match="another"):
            target.run(inputs, outputs)


@needs_native
def test_sums_beyond_int32_are_refused() -> None:
    graph, k = Graph(), 70_000
    x_q, x = np.full((1, k), 255, np.uint8), qparams(1, 0)
    w_q, w = np.full((k, 1), 127, np.int8), qparams(1, 0, "int8")
    graph.node("MatMul", [graph.activation("x", x_q, x), graph.weight("w", w_q, w)], "y")
    with pytest.raises(RuntimeUnavailable, match="beyond int32"):
        graph.run(["y"])


@needs_native
def test_what_the_engine_does_not_know_is_named() -> None:
    graph, rng = Graph(), np.random.default_rng(0)
    x, w = graph.input("x", rng.random((2, 5), np.float32)), rng.random((5, 3), np.float32)
    product = graph.inputs["x"] @ w
    graph.node("MatMul", [x, graph.constant("w", w)], "m")
    graph.node("Cos", ["m"], "y")
    content = graph.proto(["y"]).SerializeToString()
    with pytest.raises(RuntimeUnavailable, match="operator 'm' multiplies"):
        intact.QuantizedModel(content, runtime="native").run(graph.inputs)
    fallen_back = intact.QuantizedModel(content)
    np.testing.assert_allclose(fallen_back.run(graph.inputs)[0], np.cos(product), rtol=1e-4)
    assert fallen_back.runtime == "onnxruntime"
    assert "operator 'm' multiplies" in fallen_back.session.refusal


def test_an_unknown_runtime_is_refused() -> None:
    graph = Graph()
    graph.node("Relu", [graph.input("x", np.ones(3, np.float32))], "y")
    with pytest.raises(InputError, match="choose from auto, native, onnxruntime"):
        _ = intact.QuantizedModel(graph.proto(["y"]).SerializeToString(), runtime="x").session  # type: ignore[arg-type]


@needs_native
def test_an_instruction_set_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph()
    rng = np.random.default_rng(0)
    operands = [
        graph.activation("x", *activation(rng, (2, 5))),
        graph.weight("w", *weight(rng, (5, 3), 1)),
    ]
    graph.node("MatMul", operands, "y")
    content = graph.proto(["y"]).SerializeToString()
    monkeypatch.setenv("INTACT_ISA", "neon9")
    with pytest.raises(RuntimeUnavailable, match="'neon9' is unknown"):
        _ = intact.QuantizedModel(content, runtime="native").session
    monkeypatch.setenv("INTACT_ISA", "portable")
    model = intact.QuantizedModel(content, runtime="native")
    assert model.session.native is not None and model.session.native.isa == "portable"
    model.run(graph.inputs)
