"""Convolutions that are computed a few lines at a time, bit for bit as one after another."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intact.core.native import native
from intact.core.qparams import QParams
from intact.engine import chain
from intact.engine.program import Tensor
from tests.engine.build import (
    Graph,
    activation,
    assert_same,
    each_isa,
    needs_native,
    qparams,
    quick,
    weight,
)

pytestmark = needs_native


@st.composite
def stages(draw: st.DrawFn) -> dict[str, Any]:
    """One convolution."""
    pointwise = draw(st.booleans())
    kernel = 1 if pointwise else draw(st.sampled_from([2, 3, 5]))
    return {
        "depthwise": not pointwise and draw(st.booleans()),
        "kernel": kernel,
        "stride": draw(st.integers(1, 3)),
        "dilation": draw(st.integers(1, 2)),
        "pads": draw(st.tuples(*[st.integers(0, kernel)] * 4)),
        "channels": draw(st.integers(1, 40)),
        "function": draw(st.sampled_from(["", "Relu", "HardSwish"])),
        "sum": draw(st.booleans()),
    }


def step(rng: np.random.Generator) -> QParams:
    return qparams(rng.uniform(0.5, 5), int(rng.integers(0, 256)))


def graph_of(
    rng: np.random.Generator, shape: tuple[int, ...], links: list[dict[str, Any]]
) -> Graph:
    graph = Graph()
    x = graph.activation("x", *activation(rng, shape))
    for i, link in enumerate(links):
        n, c, height, width = shape
        depthwise, kernel, pads = link["depthwise"], link["kernel"], link["pads"]
        reach = (kernel - 1) * link["dilation"] + 1
        out = [
            (size + pads[j] + pads[j + 2] - reach) // link["stride"] + 1
            for j, size in enumerate((height, width))
        ]
        if min(out) < 1:
            continue
        m = c if depthwise else link["channels"]
        w = graph.weight(f"w{i}", *weight(rng, (m, 1 if depthwise else c, kernel, kernel), 0))
        y = graph.node(
            "Conv", [x, w], f"y{i}", group=c if depthwise else 1, pads=list(pads),
            strides=[link["stride"]] * 2, dilations=[link["dilation"]] * 2,
        )  # fmt: skip
        if link["function"]:
            y = graph.node(link["function"], [y], f"f{i}")
        read = x
        x = graph.quantized(y, step(rng))
        shape = (n, m, *out)
        if link["sum"] and shape == (n, c, height, width):
            y = graph.node("Add", [x, read], f"s{i}")
            x = graph.quantized(y, step(rng))
    graph.node("Identity", [x], "y")
    return graph


@each_isa
@quick
@given(
    st.integers(0, 2**31),
    st.sampled_from([1, 2, 3, 4]),
    st.tuples(st.integers(1, 40), st.integers(1, 20), st.integers(1, 20)),
    st.lists(stages(), min_size=2, max_size=6),
    st.sampled_from([1, 2, 3]),
)
def test_chains(
    isa: str,
    seed: int,
    images: int,
    size: tuple[int, int, int],
    links: list[dict[str, Any]],
    threads: int,
) -> None:
    graph = graph_of(np.random.default_rng(seed), (images, *size), links)
    found = []
    for pays in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chain, "_pays", lambda *_, pays=pays: pays)
            found.append(graph.run(["y"], isa, threads)[0])
    assert_same(found[1], found[0])


@each_isa
def test_lines_that_are_needed_again_are_moved(isa: str) -> None:
    """An image whose lines do not fit what holds some of them at a time."""
    rng = np.random.default_rng(0)
    wide = {"kernel": 1, "pads": (0,) * 4, "depthwise": False, "channels": 96}
    deep = {"kernel": 5, "pads": (2,) * 4, "depthwise": True, "channels": 96}
    rest = {"stride": 1, "dilation": 1, "function": "Relu", "sum": False}
    graph = graph_of(rng, (1, 8, 150, 40), [wide | rest, deep | rest, wide | rest, deep | rest])
    found = []
    for pays in (False, True):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chain, "_pays", lambda *_, pays=pays: pays)
            found.append(graph.run(["y"], isa)[0])
    assert_same(found[1], found[0])


def test_what_others_read_too_is_computed_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(program: list[Any], outputs: list[Tensor], threads: int) -> None:
        original(program, outputs, threads)
        seen.append([instruction.chained for instruction in program])

    original = chain.chain
    monkeypatch.setattr("intact.engine.compile.chain", record)
    monkeypatch.setattr(chain, "_pays", lambda *_: True)
    rest = {"stride": 1, "dilation": 1, "function": ""}
    pointwise = {"kernel": 1, "pads": (0,) * 4, "depthwise": False, "channels": 4} | rest
    links = [pointwise | {"sum": False}, pointwise | {"sum": True}, pointwise | {"sum": False}]
    graph = graph_of(np.random.default_rng(0), (1, 4, 5, 5), links)
    graph.run(["y"])
    # The first one's output is a summand as well; what comes last is the program's output.
    assert [flag for flag in seen[-1] if flag] == [True]


@pytest.mark.parametrize("wrong", ["whole", "alone", "end", "run"])
def test_a_chain_that_does_not_hold_together_is_refused(wrong: str) -> None:
    assert native is not None
    engine = native.Engine.create(1, "")
    program = native.Program(engine, 4096, [], [])
    packed = native.Packed.pack(engine, np.ones((1, 8, 8), np.int8), (1,) * 6)
    windows = (1, 4, 4, 8, 4, 4, 1, 1, 1, 1, 1, 1, 0, 0)
    arena, lines = (0, 0, 128), (3, 0, 128)

    def add(x: Any, y: Any) -> None:
        program.convolution(
            "c", x, y, windows, 0, packed, np.zeros(8, np.int32), np.ones(8, np.float32),
            (-128.0, 127.0, 128), None, None, None,
        )  # fmt: skip

    def build() -> None:
        if wrong == "alone":
            add(arena, lines)
        program.begin_chain()
        add(arena, arena if wrong == "whole" else lines)
        if wrong == "end":
            program.begin_chain()
        if wrong == "run":
            program.run([], [])
        add(arena, (0, 128, 128))
        program.end_chain("c")

    with pytest.raises(ValueError, match="chain"):
        build()
