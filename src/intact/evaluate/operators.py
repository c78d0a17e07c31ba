"""What really runs as integers, read from what the runtime made of the file, and its work.

A file's decisions say what was meant; a runtime may still compute in float (for example a
convolution whose output is not quantized). The operators are found again in ONNX Runtime's
optimized graph, or in the native engine's program, by the names of their stored weights, whatever
the runtime fused around them.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import onnx
from numpy.typing import NDArray

from intact.run.model import QuantizedModel
from intact.run.onnxruntime import INTEGER_OPERATORS, Session, optimized

__all__ = ["Operator", "operators"]

WEIGHTED: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU")
# What the runtime may put between a stored weight and the operator that multiplies with it.
_BETWEEN: Final = frozenset({"DequantizeLinear", "Cast", "Mul", "Transpose", "Reshape", "Div"})


@dataclass(frozen=True)
class Operator:
    """One operator that multiplies matrices, as it is stored and as it runs.

    mode: what was decided ("static", "dynamic", "float"; "" in a file of another tool).
    runs_as: the runtime's operator; integer: whether it multiplies integers.
    macs: multiply-accumulates for one sample.
    """

    name: str
    op_type: str
    mode: str
    runs_as: str
    integer: bool
    macs: int


def operators(
    model: QuantizedModel, example: Mapping[str, NDArray[Any]] | None = None
) -> list[Operator]:
    """The operators of a model, in its order.

    example: inputs whose shapes the work is counted for; without them a batch of one, and 32 for
    every other axis that varies.
    """
    graph = model.proto.graph
    feeds = example or model.signature.example()
    model.session.settle(feeds)
    if model.session.native is not None and model.decisions:
        executed: _Executed | _Native = _Native(model.session.native.products(feeds))
        running = graph
    else:
        running = optimized(model.content, model.threads)
        executed = _Executed(running)
    if not model.decisions:
        return [
            Operator(node.name, node.op_type, "", node.op_type, _multiplies_integers(node), 0)
            for node in running.node
            if _multiplies_integers(node) or _plain_type(node.op_type) in WEIGHTED
        ]
    nodes = {node.name: node for node in graph.node}
    found = [
        (name, entry, node)
        for name, entry in model.decisions.items()
        if entry.get("op_type") in WEIGHTED
        and (node := nodes.get(name) or nodes.get(f"{name}.direction_0")) is not None
    ]
    shapes = _shapes(model, [node for _, _, node in found], feeds)
    result = []
    for name, entry, node in found:
        weights = [str(w) for w in entry.get("weights", [])] or list(node.input[1:2])
        runs_as, integer = executed.operator(weights, name) or (str(entry["op_type"]), False)
        stored = shapes.get(f"{weights[0]}_quantized", ()) if weights else ()
        work = _macs(str(entry["op_type"]), node, shapes, stored)
        result.append(
            Operator(name, str(entry["op_type"]), str(entry["mode"]), runs_as, integer, work)
        )
    return result


class _Native:
    """The native engine's program, searched by weights."""

    def __init__(self, products: Mapping[str, tuple[str, bool]]) -> None:
        self._products = products

    def operator(self, weights: list[str], name: str) -> tuple[str, bool] | None:
        """The instruction that multiplies with one of the weights, and whether as integers."""
        forms = (f"{weight}{form}" for weight in weights for form in ("_dequantized", "_quantized"))
        return next((self._products[form] for form in forms if form in self._products), None)


class _Executed:
    """ONNX Runtime's optimized graph, searched by weights."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._nodes = {node.name: node for node in graph.node}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in _all_nodes(graph):
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def operator(self, weights: list[str], name: str) -> tuple[str, bool] | None:
        """The type of the node that multiplies with one of the weights, else that of the name."""
        found = self._type(weights, name)
        return None if found is None else (found, found in INTEGER_OPERATORS)

    def _type(self, weights: list[str], name: str) -> str | None:
        for weight in weights:
            for form in ("_quantized", "_dequantized", "_scaled", "_real", ""):
                for reader in self._readers.get(f"{weight}{form}", []):
                    reached = self._follow(reader, 6)
                    if reached is not None:
                        return reached
        node = self._nodes.get(name)
        return None if node is None else node.op_type

    def _follow(self, node: onnx.NodeProto, depth: int) -> str | None:
        if node.op_type in INTEGER_OPERATORS or _plain_type(node.op_type) in WEIGHTED:
            return node.op_type
        if node.op_type in _BETWEEN and depth:
            for output in node.output:
                for reader in self._readers.get(output, []):
                    reached = self._follow(reader, depth - 1)
                    if reached is not None:
                        return reached
        return None


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _plain_type(op_type: str) -> str:
    """The ONNX operator behind a fused float operator of the runtime's own."""
    return op_type.removeprefix("Fused").removeprefix("Nhwc")


def _multiplies_integers(node: onnx.NodeProto) -> bool:
    return node.op_type in INTEGER_OPERATORS


def _shapes(
    model: QuantizedModel, nodes: list[onnx.NodeProto], feeds: Mapping[str, NDArray[Any]]
) -> dict[str, tuple[int, ...]]:
    """The shapes of the nodes' first inputs and outputs, from one run."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model.proto)
    existing = {value.name for value in watched.graph.output} | set(feeds)
    constants = {tensor.name: tuple(tensor.dims) for tensor in watched.graph.initializer}
    wanted = dict.fromkeys(
        name
        for node in nodes
        for name in (*node.input[:2], *node.output[:1])
        if name and name not in existing and name not in constants
    )
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    names = [value.name for value in watched.graph.output]
    results = Session(watched.SerializeToString(), model.threads).run(feeds)
    shapes = {name: array.shape for name, array in zip(names, results, strict=True)}
    return constants | {name: array.shape for name, array in feeds.items()} | shapes


def _macs(
    op_type: str,
    node: onnx.NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    stored: tuple[int, ...],
) -> int:
    """Multiply-accumulates of one operator; `stored` is its weight's shape in the file."""
    x = shapes.get(node.input[0], ())
    y = shapes.get(node.output[0], ())
    weight = _weight_shape(node, shapes)
    if op_type == "Conv":
        return math.prod(y) * math.prod(weight[1:])
    if op_type == "ConvTranspose":
        return math.prod(x) * math.prod(weight[1:])
    if op_type in ("LSTM", "GRU"):
        recurrence = shapes.get(node.input[4 if node.domain == "intact" else 2], ())
        directions = 2 if node.name.endswith(".direction_0") else 1
        return math.prod(x[:2]) * directions * (math.prod(weight) + math.prod(recurrence))
    # A matrix product: each output element takes as many products as the inner axis is long.
    inner = math.prod(stored) // y[-1] if stored and y else x[-1] if x else 0
    return math.prod(y) * inner


def _weight_shape(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    return shapes.get(node.input[1], ()) if len(node.input) > 1 else ()
