"""LSTM and GRU, step by step.

One time step of a dynamic cell is within 1e-5 of the integer reference: its sums are exact, sigmoid
and tanh are within their own tolerance. Many steps are bit for bit what single ones give one after
another; against the reference they may differ by more, because a state that lies between two
integers is rounded once up and once down. Float cells are within 1e-5 of ONNX Runtime's at every
step of moderate length.
"""

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intact.core import arithmetic
from intact.core.errors import RuntimeUnavailable
from intact.engine.compile import Model
from tests.engine.build import Array, Graph, assert_same, each_isa, needs_native, quick
from tests.operators.runtime import options

pytestmark = needs_native

GATES = {"LSTM": 4, "GRU": 3}
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["LSTM", "GRU"])
# Below, at and above the columns of a block and the bytes of a vector.
hiddens = st.sampled_from([1, 3, 16, 31, 64, 70, 130])
batches = st.sampled_from([1, 2, 7, 33])


def operands(
    rng: np.random.Generator, kind: str, time: int, batch: int, inputs: int, hidden: int
) -> dict[str, Array]:
    """What the reference takes, for one direction."""
    rows = GATES[kind] * hidden
    depth = max(hidden, inputs)
    result: dict[str, Array] = {
        "x": 2 * rng.standard_normal((time, batch, inputs), np.float32),
        "w_q": rng.integers(-127, 128, (1, rows, inputs)).astype(np.int8),
        "w_scale": rng.uniform(0.001, 0.02, (1, rows)).astype(np.float32),
        "r_q": rng.integers(-127, 128, (1, rows, hidden)).astype(np.int8),
        "r_scale": rng.uniform(0.001, 0.02, (1, rows)).astype(np.float32),
        "bias": rng.standard_normal((1, 2 * rows), np.float32),
        "initial_h": rng.uniform(-1, 1, (1, batch, hidden)).astype(np.float32),
    }
    for name in ("w_scale", "r_scale"):
        result[name] /= np.float32(np.sqrt(depth))
    if kind == "LSTM":
        result["initial_c"] = rng.standard_normal((1, batch, hidden), np.float32)
    return result


def call(
    graph: Graph, kind: str, p: dict[str, Array], reverse: bool, prefix: str = ""
) -> list[str]:
    """A call of intact's function, as `emit` writes it; y, y_h and, of an LSTM, y_c."""
    rows = GATES[kind] * p["r_q"].shape[-1]
    names = ["x" if "x" in graph.inputs else graph.input("x", p["x"])]
    for name in ("w", "r"):
        stored = np.ascontiguousarray(p[f"{name}_q"][0].T)
        names += [
            graph.constant(f"{prefix}{name}", stored),
            graph.constant(f"{prefix}{name}_scale", p[f"{name}_scale"][0]),
            graph.constant(f"{prefix}{name}_sum", stored.astype(np.int32).sum(0, dtype=np.int32)),
        ]
    first, second = p["bias"][0, :rows], p["bias"][0, rows:]
    if kind == "LSTM":
        names.append(graph.constant(f"{prefix}b", first + second))
    else:
        names += [graph.constant(f"{prefix}b", first), graph.constant(f"{prefix}rb", second)]
    states = ("h", "c") if kind == "LSTM" else ("h",)
    names += [graph.input(f"{prefix}{name}0", p[f"initial_{name}"][0]) for name in states]
    outputs = [f"{prefix}{name}" for name in ("y", "yh", "yc")[: len(states) + 1]]
    return graph.many(
        f"Dynamic{kind}", names, outputs, domain="intact", directions=[int(reverse)]
    )  # fmt: skip


def ours(
    kind: str, p: dict[str, Array], isa: str, threads: int = 1, reverse: bool = False
) -> list[Array]:
    graph = Graph()
    return graph.run(call(graph, kind, p, reverse), isa, threads)


def reference(kind: str, p: dict[str, Array], direction: Any = "forward") -> list[Array]:
    """[time, batch, hidden], and the last states [batch, hidden]."""
    if kind == "LSTM":
        y, *last = arithmetic.lstm(**p, direction=direction)
    else:
        y, *last = arithmetic.gru(**p, direction=direction, linear_before_reset=True)
    return [y[:, 0], *(state[0] for state in last)]


@each_isa
@quick
@given(seeds, kinds, batches, st.sampled_from([1, 5, 40]), hiddens, st.sampled_from([1, 3]),
       st.sampled_from([1.0, 1e-30, 1e4]))  # fmt: skip
def test_a_step_is_the_references(
    isa: str, seed: int, kind: str, batch: int, inputs: int, hidden: int, threads: int,
    magnitude: float,
) -> None:  # fmt: skip
    p = operands(np.random.default_rng(seed), kind, 1, batch, inputs, hidden)
    p["x"] = (magnitude * p["x"]).astype(np.float32)
    expected = reference(kind, p)
    for found, wanted in zip(ours(kind, p, isa, threads), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0, strict=True)


@each_isa
@quick
@given(seeds, kinds, batches, st.integers(2, 9), hiddens, st.booleans(), st.sampled_from([1, 3]))
def test_many_steps_are_single_steps_bit_for_bit(
    isa: str, seed: int, kind: str, batch: int, time: int, hidden: int, reverse: bool, threads: int
) -> None:
    p = operands(np.random.default_rng(seed), kind, time, batch, 6, hidden)
    y, *last = ours(kind, p, isa, threads, reverse)
    state = [p["initial_h"], *([p["initial_c"]] if kind == "LSTM" else [])]
    for t in reversed(range(time)) if reverse else range(time):
        names = ("initial_h", "initial_c")[: len(state)]
        step, *after = ours(
            kind, p | {"x": p["x"][t : t + 1]} | dict(zip(names, state, strict=True)), isa
        )
        assert_same(step[0], y[t])
        assert_same(after[0], y[t])
        state = [value[None] for value in after]
    for value, wanted in zip(state, last, strict=True):
        assert_same(value[0], wanted)


@each_isa
@quick
@given(seeds, kinds, batches, hiddens, st.booleans())
def test_a_sequence_does_not_depend_on_its_batch(
    isa: str, seed: int, kind: str, batch: int, hidden: int, reverse: bool
) -> None:
    p = operands(np.random.default_rng(seed), kind, 4, batch, 6, hidden)
    together, i = ours(kind, p, isa, 2, reverse), batch - 1
    alone = ours(kind, _sequence(p, i), isa, 1, reverse)
    assert_same(alone[0], together[0][:, i:])
    for one, all_of_them in zip(alone[1:], together[1:], strict=True):
        assert_same(one, all_of_them[i:])


def _sequence(p: dict[str, Array], i: int) -> dict[str, Array]:
    """The operands of one sequence of the batch."""
    states = {k: v[:, i : i + 1] for k, v in p.items() if k == "x" or k.startswith("initial")}
    return p | states


@each_isa
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_whole_sequences_stay_close_to_the_reference(isa: str, kind: str, direction: str) -> None:
    p = operands(np.random.default_rng(1), kind, 50, 3, 20, 48)
    expected = reference(kind, p, direction)
    for found, wanted in zip(ours(kind, p, isa, 2, direction == "reverse"), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=0.02)  # a few integers away
        assert np.sqrt(np.mean((found - wanted) ** 2)) < 0.002


@each_isa
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
@pytest.mark.parametrize("batch", [1, 2])
def test_threads_share_out_a_long_step(isa: str, kind: str, batch: int) -> None:
    """Fewer sequences than threads, and more than half a megabyte of weights."""
    p = operands(np.random.default_rng(2), kind, 3, batch, 4, 430)
    for found, wanted in zip(ours(kind, p, isa, 3), ours(kind, p, isa, 1), strict=True):
        assert_same(found, wanted)


@each_isa
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_two_directions_are_one_instruction(isa: str, kind: str) -> None:
    rng = np.random.default_rng(3)
    forward, backward = (operands(rng, kind, 5, 2, 6, 20) for _ in range(2))
    backward["x"] = forward["x"]
    graph = Graph()
    names = [
        call(graph, kind, p, reverse, prefix)
        for p, reverse, prefix in ((forward, False, "f_"), (backward, True, "b_"))
    ]
    axis = graph.constant("axis", np.array([1]))
    parts = [graph.node("Unsqueeze", [y, axis], f"{y}_u") for y, *_ in names]
    graph.node("Transpose", [graph.node("Concat", parts, "c", axis=1)], "y", perm=[0, 2, 1, 3])
    model = Model(graph.proto(["y", *names[0][1:]]), 2, _no_session, isa)
    y, *last = model.run(graph.inputs)
    alone = ours(kind, forward, isa)
    assert_same(y[:, :, 0], alone[0])
    assert_same(y[:, :, 1], ours(kind, backward, isa, 1, True)[0])
    for found, wanted in zip(last, alone[1:], strict=True):
        assert_same(found, wanted)
    kinds = [i.kind for i in model.executable(graph.inputs).instructions]
    assert kinds.count("recurrence") == 1
    assert kinds.count("quantize_rows") == 1  # for both


def _no_session(content: bytes) -> Any:
    raise AssertionError("this graph needs no other runtime")


def real(
    seed: int, kind: str, direction: str, time: int, batch: int, hidden: int, **attributes: Any
) -> tuple[Graph, list[str]]:
    """ONNX's own operator, with all of its inputs."""
    rng, graph = np.random.default_rng(seed), Graph()
    directions, rows = (2 if direction == "bidirectional" else 1), GATES[kind] * hidden
    shapes = {
        "w": (directions, rows, 5),
        "r": (directions, rows, hidden),
        "b": (directions, 2 * rows),
    }
    names = [graph.input("x", rng.standard_normal((time, batch, 5), np.float32))]
    names += [
        graph.constant(
            name, rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[-1]))
        )
        for name, shape in shapes.items()
    ]
    state = (directions, batch, hidden)
    names += ["", graph.input("h0", rng.uniform(-1, 1, state).astype(np.float32))]
    if kind == "LSTM":
        names.append(graph.input("c0", rng.standard_normal(state, np.float32)))
    outputs = ["y", "yh", "yc"][: 3 if kind == "LSTM" else 2]
    graph.many(kind, names, outputs, hidden_size=hidden, direction=direction, **attributes)
    return graph, outputs


CASES = [("LSTM", {}), ("GRU", {"linear_before_reset": 1}), ("GRU", {"linear_before_reset": 0})]


def assert_as_onnxruntime(graph: Graph, outputs: list[str], isa: str, threads: int) -> None:
    content = graph.proto(outputs).SerializeToString()
    expected = onnxruntime.InferenceSession(content, options()).run(None, graph.inputs)
    for found, wanted in zip(graph.run(outputs, isa, threads), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5, strict=True)


@each_isa
@quick
@given(seeds, st.sampled_from(CASES), st.sampled_from(["forward", "reverse", "bidirectional"]),
       st.integers(1, 6), batches, hiddens, st.sampled_from([1, 3]))  # fmt: skip
def test_float_cells(
    isa: str, seed: int, case: Any, direction: str, time: int, batch: int, hidden: int, threads: int
) -> None:
    kind, attributes = case
    graph, outputs = real(seed, kind, direction, time, batch, hidden, **attributes)
    assert_as_onnxruntime(graph, outputs, isa, threads)


@each_isa
@pytest.mark.parametrize(("kind", "attributes"), CASES)
def test_float_cells_without_bias_and_states(
    isa: str, kind: str, attributes: dict[str, Any]
) -> None:
    graph, outputs = real(0, kind, "bidirectional", 3, 2, 9, **attributes)
    del graph.nodes[0].input[3:], graph.inputs["h0"]
    graph.inputs.pop("c0", None)
    assert_as_onnxruntime(graph, outputs, isa, 2)


@each_isa
@pytest.mark.parametrize(("kind", "attributes"), CASES)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_threads_share_out_a_long_float_step(
    isa: str, kind: str, attributes: dict[str, Any], direction: str
) -> None:
    graph, outputs = real(0, kind, direction, 3, 2, 230, **attributes)
    assert_as_onnxruntime(graph, outputs, isa, 5)
    one, five = (graph.run(outputs, isa, threads) for threads in (1, 5))
    for found, wanted in zip(five, one, strict=True):
        assert_same(found, wanted)


def test_cells_other_than_the_default_ones_are_refused() -> None:
    """Whatever changes what the cell computes is named."""
    cases: list[tuple[dict[str, Any], str]] = [
        ({"clip": 3.0}, "clip=3.0"),
        ({"clip": 0.0}, "clip=0.0"),
        ({"input_forget": 1}, "input_forget=1"),
        ({"activations": ["Relu", "Tanh", "Tanh"]}, "activations relu, tanh, tanh"),
        ({"layout": 1}, "layout=1"),
    ]
    for attributes, message in cases:
        graph, outputs = real(0, "LSTM", "forward", 3, 2, 9, **attributes)
        with pytest.raises(RuntimeUnavailable, match=message):
            graph.run(outputs)
    graph, outputs = real(0, "LSTM", "forward", 3, 2, 9)
    graph.nodes[0].input[4] = graph.constant("lengths", np.array([3, 2], np.int32))
    with pytest.raises(RuntimeUnavailable, match="several lengths"):
        graph.run(outputs)
    graph.constants["lengths"] = np.array([3, 3], np.int32)
    assert graph.run(outputs)[0].shape == (3, 1, 2, 9)
    graph.nodes[0].input.append(graph.constant("p", np.zeros((1, 27), np.float32)))
    with pytest.raises(RuntimeUnavailable, match="peepholes"):
        graph.run(outputs)
    graph, outputs = real(0, "GRU", "forward", 3, 2, 9)
    graph.nodes[0].input[2] = graph.input("r_given", graph.constants.pop("r"))
    with pytest.raises(RuntimeUnavailable, match="not constant"):
        graph.run(outputs)
