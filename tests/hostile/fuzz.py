"""Mutated models against the native engine: whatever is in a file, it may refuse, never crash.

    python -m tests.hostile.fuzz --seconds 60 --seed 0

Models of every kind of operator are mutated in their bytes and in their structure (attributes,
shapes, constants), opened and run. With the sanitizers' build (`make sanitize`) memory errors end
the process too.
"""

import argparse
import random
import time
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from intact.core.errors import IntactError
from intact.engine import samples
from intact.engine.compile import Model
from tests.engine.build import Array, Graph, activation, dynamic_call, qparams, weight

__all__ = ["mutate", "seeds", "survives"]

Seed = tuple[onnx.ModelProto, dict[str, Array]]


def seeds() -> Iterator[Seed]:
    """Small whole models, between them of every kind of step."""
    yield _convolutional()
    yield _dynamic()
    yield _attention()
    yield _text()
    yield _recurrent()
    yield _images()
    yield _images_in_floats()


def _convolutional() -> Seed:
    rng, graph = np.random.default_rng(0), Graph()
    x = graph.activation("x", *activation(rng, (2, 3, 12, 12)))
    graph.node("Conv", [x, graph.weight("w", *weight(rng, (18, 3, 3, 3), 0))], "c", pads=[1] * 4)
    c = graph.quantized("c", qparams(0.05, 100))
    graph.node("Mul", [c, graph.node("Sigmoid", [c], "s")], "f")
    f = graph.quantized("f", qparams(0.03, 10))
    graph.node("Conv", [f, graph.weight("d", *weight(rng, (18, 1, 3, 3), 0))], "e", group=18,
               strides=[2, 2], pads=[1] * 4)  # fmt: skip
    e = graph.quantized("e", qparams(0.04, 128))
    graph.node("MaxPool", [e], "m", kernel_shape=[2, 2], ceil_mode=1)
    m = graph.quantized("m", qparams(0.04, 128))
    graph.node("AveragePool", [m], "a", kernel_shape=[2, 2], pads=[1] * 4)
    a = graph.quantized("a", qparams(0.02, 120))
    graph.node("GlobalAveragePool", [a], "g")
    g = graph.quantized("g", qparams(0.02, 0))
    graph.node("Mul", [a, g], "gated")
    graph.node("Concat", [graph.quantized("gated", qparams(0.01, 99)), a], "joined", axis=1)
    j = graph.quantized("joined", qparams(0.02, 110))
    graph.node("Add", [j, j], "sum")
    graph.node("GlobalAveragePool", [graph.quantized("sum", qparams(0.05, 120))], "mean")
    graph.node("Flatten", [graph.quantized("mean", qparams(0.05, 120))], "flat")
    graph.node("Gemm", ["flat", graph.weight("v", *weight(rng, (36, 7), 1))], "y")
    return graph.proto(["y"]), graph.inputs


def _dynamic() -> Seed:
    rng, graph = np.random.default_rng(1), Graph()
    x = graph.input("x", rng.standard_normal((2, 6, 9, 9)).astype(np.float32))
    w = weight(rng, (8, 3, 3, 3), 0)[0]
    scale = np.full(8, 0.01, np.float32)
    dynamic_call(
        graph, "DynamicConv", x, w, scale, axes=[1, 2, 3], strides=[2, 1], dilations=[1, 1],
        group=2, pads=[0, 0, 1, 1, 0, 0, 1, 1],
    )  # fmt: skip
    graph.node("Add", ["product", graph.constant("b", np.ones((8, 1, 1), np.float32))], "c")
    graph.node("MaxPool", [graph.node("Relu", ["c"], "r")], "p", kernel_shape=[2, 2])
    graph.node("GlobalAveragePool", ["p"], "g")
    graph.node("Mul", ["p", graph.node("Sigmoid", ["g"], "s")], "y")
    graph.node("Flatten", ["y"], "out")
    return graph.proto(["out"]), graph.inputs


def _images() -> Seed:
    rng, graph = np.random.default_rng(3), Graph()
    q = qparams(0.05, 120)
    graph.activation("x", *activation(rng, (2, 8, 5, 6)))
    names = ["x_dq"]

    def then(op_type: str, *constants: Array, **attributes: Any) -> None:
        label = f"n{len(graph.nodes)}"
        extra = [
            graph.constant(f"{label}_{i}", c) if c.size else "" for i, c in enumerate(constants)
        ]
        graph.node(op_type, [names[-1], *extra], label, **attributes)
        names.append(graph.quantized(label, q))

    nothing, per_channel = np.zeros(0), np.linspace(0.5, 2, 8, dtype=np.float32)
    then("Reshape", np.array([2, 2, 4, 5, 6]))
    then("Transpose", perm=[0, 2, 1, 3, 4])
    then("Reshape", np.array([2, 8, 5, 6]))
    then("BatchNormalization", *[per_channel] * 4)
    then("PRelu", per_channel.reshape(8, 1, 1))
    then("Resize", nothing, np.array([1, 1, 2, 1.5], np.float32), mode="linear")
    then("Resize", nothing, np.array([1, 1, 0.5, 1], np.float32))
    then("Pad", np.array([0, 0, 1, 0, 0, 0, 0, 2]), mode="reflect")
    then("Slice", np.array([1]), np.array([6]), np.array([2]), np.array([2]))
    w = graph.weight("w", *weight(rng, (8, 5, 3, 2), 1))
    graph.node("ConvTranspose", [names[-1], w], "t", strides=[2, 1], pads=[1, 0, 0, 1])
    t = graph.quantized("t", qparams(0.3, 100))
    graph.node("Exp", [graph.node("Sub", [t, t], "d")], "e")
    graph.node("Concat", [graph.quantized("e", q), t], "joined", axis=2)
    graph.node(
        "ReduceMax", [graph.quantized("joined", q), graph.constant("axes", np.array([1]))], "y"
    )
    return graph.proto(["y"]), graph.inputs


def _images_in_floats() -> Seed:
    rng, graph = np.random.default_rng(4), Graph()
    x = graph.input("x", rng.standard_normal((2, 6, 4, 5)).astype(np.float32))
    per_channel = graph.constant("p", np.linspace(0.5, 2, 6, dtype=np.float32))
    graph.node("BatchNormalization", [x, *[per_channel] * 4], "n")
    graph.node("Resize", ["n", "", graph.constant("s", np.array([1, 1, 2, 2], np.float32))], "r",
               mode="cubic")  # fmt: skip
    w = weight(rng, (6, 4, 4, 4), None)[0]
    scale = np.full(8, 0.01, np.float32)
    dynamic_call(
        graph, "DynamicConvTranspose", "r", w, scale, axes=[1, 2, 3], strides=[2, 2],
        dilations=[1, 1], group=2, pads=[1, 1, 1, 1], output_padding=[0, 1],
    )  # fmt: skip
    graph.node("Pad", ["product", graph.constant("pads", np.array([0, 1, 0, 0, 0, 0, -1, 2]))], "d")
    graph.node("Div", ["d", graph.constant("k", np.full((9, 1, 1), 3, np.float32))], "q")
    graph.node("Sqrt", [graph.node("Pow", ["q", graph.constant("two", np.float32(2))], "sq")], "y")
    return graph.proto(["y"]), graph.inputs


def _attention() -> Seed:
    rng, graph = np.random.default_rng(2), Graph()
    x = graph.input("x", rng.standard_normal((1, 6, 8)).astype(np.float32))
    names = [graph.constant(n, np.ones(8, np.float32)) for n in ("gamma", "beta")]
    graph.node("LayerNormalization", [x, *names], "n", axis=-1)
    graph.node("Reshape", ["n", graph.constant("s", np.array([1, 6, 2, 4]))], "h")
    graph.node("Transpose", ["h"], "q", perm=[0, 2, 1, 3])
    graph.node("Transpose", ["h"], "k", perm=[0, 2, 3, 1])
    graph.node("Softmax", [graph.node("MatMul", ["q", "k"], "scores")], "p", axis=-1)
    graph.node("Transpose", [graph.node("MatMul", ["p", "q"], "a")], "t", perm=[0, 2, 1, 3])
    graph.node("Reshape", ["t", graph.constant("u", np.array([1, 6, 8]))], "r")
    r = graph.quantized("r", qparams(0.02, 128))
    graph.node("MatMul", [r, graph.weight("w", *weight(rng, (8, 8), 1))], "m")
    graph.node("Add", ["m", "x"], "z")
    bounds = [graph.constant(n, np.array([v])) for n, v in (("from", 0), ("to", 2), ("axis", 1))]
    graph.node("Slice", ["z", *bounds], "y")
    return graph.proto(["y"]), graph.inputs


def _text() -> Seed:
    """Embeddings, a mask, and attention that it forbids some of."""
    rng, graph = np.random.default_rng(3), Graph()
    ids = graph.input("ids", np.array([[1, 4, 2, 8], [3, -1, 0, 0]]))
    table = graph.constant("table", rng.integers(-128, 128, (9, 8)).astype(np.int8))
    scales = graph.constant("scales", rng.random((9, 1), np.float32))
    graph.node("Cast", [graph.node("Gather", [table, ids], "rows")], "real", to=1)
    graph.node("Mul", ["real", graph.node("Gather", [scales, ids], "s")], "e")
    graph.node("Cast", [graph.input("mask", np.array([[1, 1, 1, 1], [1, 1, 0, 0]]))], "b", to=9)
    graph.node("Not", ["b"], "n")
    graph.node("Unsqueeze", ["n", graph.constant("axes", np.array([1, 2]))], "u")
    zeros = [graph.constant("no", np.float32(-np.inf)), graph.constant("zero", np.float32(0))]
    graph.node("Where", ["u", *zeros], "forbidden")
    graph.node("Reshape", ["e", graph.constant("heads", np.array([2, 4, 2, 4]))], "h")
    graph.node("Transpose", ["h"], "q", perm=[0, 2, 1, 3])
    graph.node("Transpose", ["h"], "k", perm=[0, 2, 3, 1])
    graph.node("Add", [graph.node("MatMul", ["q", "k"], "scores"), "forbidden"], "masked")
    graph.node("MatMul", [graph.node("Softmax", ["masked"], "p", axis=-1), "q"], "a")
    graph.node("Pad", ["a", graph.constant("pads", np.array([0, 0, 0, 0, 0, 0, 1, 0]))], "padded")
    bounds = [graph.constant(n, np.array([v])) for n, v in
              (("from", 0), ("to", 5), ("axis", 2), ("step", 2))]  # fmt: skip
    graph.node("Slice", ["padded", *bounds], "part")
    graph.node("Reshape", ["part", graph.constant("flat", np.array([-1, 8]))], "f")
    f = graph.quantized("f", qparams(0.05, 128))
    graph.node("MatMul", [f, graph.weight("w", *weight(rng, (8, 6), 1))], "y")
    return graph.proto(["y"]), graph.inputs


def _recurrent() -> Seed:
    rng, graph = np.random.default_rng(3), Graph()
    shapes = {"w": (2, 20, 3), "r": (2, 20, 5), "b": (2, 40)}
    names = [graph.input("x", rng.standard_normal((4, 2, 3), np.float32))]
    names += [graph.constant(n, rng.standard_normal(s, np.float32)) for n, s in shapes.items()]
    lengths = graph.constant("lengths", np.array([4, 4], np.int32))
    names += [lengths, graph.input("h0", np.zeros((2, 2, 5), np.float32))]
    graph.many("LSTM", names, ["y", "y_h"], hidden_size=5, direction="bidirectional")
    graph.node("Transpose", ["y"], "t", perm=[0, 2, 1, 3])
    graph.node("Reshape", ["t", graph.constant("s", np.array([4, 2, 10]))], "joined")
    parts = [graph.constant("gru_w", weight(rng, (10, 12), 1)[0])]
    for name, value in (("gru_r", weight(rng, (4, 12), 1)[0]), ("scale", np.full(12, 0.01))):
        parts.append(graph.constant(name, value if name == "gru_r" else value.astype(np.float32)))
    w, r, scale = parts
    sums, bias = (
        graph.constant(n, np.zeros(12, d)) for n, d in (("sum", np.int32), ("bias", "f4"))
    )
    state = graph.constant("state", np.ones((2, 4), np.float32))
    call = ["joined", w, scale, sums, r, scale, sums, bias, bias, state]
    graph.many("DynamicGRU", call, ["z", "z_h"], domain="intact", directions=[1])
    graph.node("ReduceMean", ["z", graph.constant("axes", np.array([0]))], "mean", keepdims=0)
    return graph.proto(["mean", "y_h"]), graph.inputs


def mutate(proto: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto | None:
    """The model with something changed; None if it is no message any more."""
    if rng.random() < 0.3:
        content = bytearray(proto.SerializeToString())
        for _ in range(rng.randint(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        changed = onnx.ModelProto()
        try:
            changed.ParseFromString(bytes(content))
        except DecodeError:
            return None
        return changed
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    for _ in range(rng.randint(1, 3)):
        _change(changed.graph, rng)
    return changed


_NUMBERS = (-(2**63), -(2**31), -3, -1, 0, 1, 2, 3, 7, 255, 2**31 - 1, 2**33, 2**62)


def _change(graph: onnx.GraphProto, rng: random.Random) -> None:
    node = rng.choice(graph.node)
    match rng.randrange(5):
        case 0 if node.attribute:
            attribute = rng.choice(node.attribute)
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice(_NUMBERS)
            else:
                attribute.i = rng.choice(_NUMBERS)
        case 1 if node.input:
            other = rng.choice(graph.node)
            names = [*other.input, *other.output]
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        case 2:
            tensor = rng.choice(graph.initializer)
            array = onnx.numpy_helper.to_array(tensor).copy()
            if array.size:
                flat = array.reshape(-1)
                with np.errstate(all="ignore"):
                    number = rng.choice([*_NUMBERS, float("nan"), float("inf"), 1e-40, 1e38])
                    flat[rng.randrange(flat.size)] = np.array(number).astype(array.dtype)
                tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        case 3:
            tensor = rng.choice(graph.initializer)
            array = onnx.numpy_helper.to_array(tensor)
            array = array.reshape(-1)[: rng.randint(0, array.size)]
            if array.size > 1 and rng.random() < 0.5:
                array = array.reshape(1, -1)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
        case _:
            node.op_type = rng.choice(graph.node).op_type


def survives(
    proto: onnx.ModelProto, feeds: dict[str, Array], isa: str = "", apart: bool = False
) -> bool:
    """Whether the engine ran the model; a refusal is no failure, any other error is raised.

    apart: whether samples are taken one by one where they can be, however little there is to do.
    """
    least = {"_LEAST_BYTES": 0, "_LEAST_USES": 0} if apart else {}
    try:
        with patch.multiple(samples, **least) if least else nullcontext():
            Model(proto, 2, _no_session, isa).run(feeds)
    except IntactError:
        return False
    return True


def _no_session(content: bytes) -> None:
    raise IntactError("no other runtime is tested here")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, models = random.Random(options.seed), list(seeds())
    end, tried, ran = time.monotonic() + options.seconds, 0, 0
    while time.monotonic() < end:
        proto, feeds = rng.choice(models)
        changed = mutate(proto, rng)
        if changed is not None:
            tried += 1
            ran += survives(changed, feeds, apart=rng.random() < 0.5)
    print(f"{tried} mutated models: {ran} ran, {tried - ran} were refused, none crashed")


if __name__ == "__main__":
    main()
