"""Where a graph can be quantized: which values become integers, and which of them belong together.

The rules, in order:

1. The activation of every static weighted operator (input 0) becomes integer.
2. A convolution's output, and the output of every operator that takes only such values, *can* be
   integer; beside one of them, an operator may take values whose range is known (a gate in [0, 1]).
   Matrix products end a chain: their output is float (DESIGN, "what is quantized").
3. A value that can be integer *is*, if some operator that it reaches through such operators needs
   it (rule 1). A chain that ends in a float operator or at the graph's output stays float.
4. Nothing is quantized between an operator and what is computed with it in one go: ReLU and Clip
   behind a convolution or a sum, runs of element-wise functions of one value, and `x * sigmoid(x)`.
5. A view's output shares its input's parameters.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from intact.graph.operators import OPERATORS, Kind

__all__ = [
    "Sites",
    "activations",
    "constant",
    "input_name",
    "is_gate",
    "is_lookup",
    "is_weighted",
    "kind",
    "known_range",
    "sites",
]

_FLOAT = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE})


@dataclass(frozen=True)
class Sites:
    """Where a graph is quantized.

    quantized: names of the values that become integers, in graph order.
    produced: those of them that an integer operator produces, so that no float version exists.
    operators: the static operators' names -> the quantized values that they take and give.
    ties: value -> the value that it shares parameters with (rule 5), itself if it is the first.
    concats: concatenations among the operators: name -> (inputs, output).
    observed: values whose statistics are needed, in graph order.
    """

    quantized: tuple[str, ...]
    produced: frozenset[str]
    operators: dict[str, tuple[str, ...]]
    ties: dict[str, str]
    concats: dict[str, tuple[tuple[str, ...], str]]
    observed: tuple[str, ...]


def name_of(value: ir.Value) -> str:
    """The name that a prepared graph's value always has."""
    assert value.name is not None, "a prepared graph names every value"
    return value.name


def input_name(node: ir.Node, index: int) -> str:
    """The name of an input that the node's operator always has."""
    value = node.inputs[index]
    assert value is not None, f"'{node.name}' lacks input {index}"
    return name_of(value)


def constant(value: ir.Value | None) -> bool:
    """Whether the value is stored in the model."""
    return value is not None and value.const_value is not None


def kind(node: ir.Node) -> Kind | None:
    """The node's kind in the operators' table as it is used here, None if it has none.

    A weighted operator without a constant weight, a pad with something other than zero and an
    interpolating resize are not what their operator's row says.
    """
    if node.domain not in ("", "ai.onnx") or node.op_type not in OPERATORS:
        return None
    operator = OPERATORS[node.op_type]
    if operator.kind == "weighted" and not is_weighted(node):
        return "float"
    if operator.kind == "recurrent" and not all(constant(v) for v in node.inputs[1:3]):
        return "float"
    if node.op_type == "Pad" and not _pads_with_zero(node):
        return "arithmetic"
    if node.op_type == "Gather" and constant(node.inputs[0]):
        return "float"
    if node.op_type == "Resize" and _string(node, "mode", "nearest") == "nearest":
        return "view"
    return operator.kind


def is_weighted(node: ir.Node) -> bool:
    """Whether the node multiplies one activation by a constant weight of two dimensions or more."""
    operator = OPERATORS.get(node.op_type)
    if operator is None or operator.kind != "weighted" or node.domain not in ("", "ai.onnx"):
        return False
    x, weight = node.inputs[0], node.inputs[1]
    if x is None or weight is None or constant(x) or not constant(weight):
        return False
    if weight.dtype != ir.DataType.FLOAT or weight.shape is None or len(weight.shape) < 2:
        return False
    if node.op_type == "Gemm":
        return all(
            attr is None or attr.as_float() == 1.0
            for attr in (node.attributes.get("alpha"), node.attributes.get("beta"))
        ) and not _integer(node, "transA", 0)
    if node.op_type == "MatMul":
        return len(weight.shape) == 2
    return operator.bias is None or len(node.inputs) <= operator.bias or _bias_is_constant(node)


def is_gate(node: ir.Node) -> bool:
    """Whether the node is a convolution of one value a channel, as in squeeze-and-excite."""
    x = node.inputs[0] if node.op_type == "Conv" else None
    if x is None or x.shape is None or len(x.shape) < 3:
        return False
    return all(size == 1 for size in x.shape[2:])


def is_lookup(node: ir.Node) -> bool:
    """Whether the node reads rows of a constant float table (an embedding)."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    return (
        table is not None
        and constant(table)
        and table.dtype == ir.DataType.FLOAT
        and table.shape is not None
        and len(table.shape) == 2
        and _integer(node, "axis", 0) == 0
    )


def activations(node: ir.Node) -> list[ir.Value]:
    """The node's inputs that are computed and of a floating-point type."""
    values = node.inputs[:1] if kind(node) in ("weighted", "recurrent", "view") else node.inputs
    return [v for v in values if v is not None and not constant(v) and v.dtype in _FLOAT]


def known_range(value: ir.Value | None) -> tuple[float, float] | None:
    """The range that a value has by definition (softmax, sigmoid, tanh), else None.

    It is looked up through views, and through the guard that PyTorch writes around softmax for
    rows that are masked entirely: `Where(IsNaN(p), 0, p)`.
    """
    producer = value.producer() if value is not None else None
    if producer is None:
        return None
    operator = OPERATORS.get(producer.op_type)
    if operator is not None and operator.range is not None:
        return operator.range
    if producer.op_type == "Where":
        test = producer.inputs[0].producer() if producer.inputs[0] is not None else None
        if test is not None and test.op_type == "IsNaN":
            return known_range(producer.inputs[2])
    if producer.op_type != "MaxPool" and kind(producer) == "view":
        return known_range(producer.inputs[0])
    return None


def sites(graph: ir.Graph, static: Collection[str], excluded: Collection[str] = ()) -> Sites:
    """Where the graph is quantized if the weighted and recurrent operators named in `static` are.

    excluded: names of other operators that stay float although they could be integer.
    """
    nodes = list(graph)
    capable = _capable(nodes, static, excluded)
    needed = _needed(nodes, static, capable)
    fused = {name for node in nodes for name in _fused(node, capable & needed)}
    quantized = [
        name_of(v) for v in _values(graph) if name_of(v) in needed and name_of(v) not in fused
    ]
    kept = set(quantized)
    operators: dict[str, tuple[str, ...]] = {}
    ties = {name: name for name in quantized}
    concats: dict[str, tuple[tuple[str, ...], str]] = {}
    for node in nodes:
        outputs = [name_of(v) for v in node.outputs if name_of(v) in capable & needed]
        inputs = [name_of(v) for v in activations(node) if name_of(v) in needed]
        if not outputs and node.name not in static:
            continue
        operators[str(node.name)] = tuple(
            dict.fromkeys(name for name in (*inputs, *outputs) if name in kept)
        )
        if kind(node) == "view":
            for output in outputs:
                if output in kept and inputs[0] in kept:
                    ties[output] = ties[inputs[0]]
        elif kind(node) == "concat" and outputs[0] in kept and all(i in kept for i in inputs):
            concats[str(node.name)] = (tuple(inputs), outputs[0])
    observed = [
        name_of(v)
        for v in _values(graph)
        if name_of(v) in kept and known_range(v) is None and _is_used(v, ties)
    ]
    produced = frozenset(kept & capable)
    return Sites(tuple(quantized), produced, operators, ties, concats, tuple(observed))


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _capable(
    nodes: list[ir.Node], static: Collection[str], excluded: Collection[str]
) -> frozenset[str]:
    """Rule 2: the values that can be integer."""
    capable: set[str] = set()
    for node in nodes:
        if node.name in static:
            if OPERATORS[node.op_type].convolution:
                capable.add(name_of(node.outputs[0]))
        elif node.name not in excluded and kind(node) in ("unary", "arithmetic", "concat", "view"):
            taken = activations(node)
            if any(name_of(v) in capable for v in taken) and all(
                name_of(v) in capable or known_range(v) is not None for v in taken
            ):
                capable.update(name_of(v) for v in node.outputs if v.dtype in _FLOAT)
    return frozenset(capable)


def _needed(
    nodes: list[ir.Node], static: Collection[str], capable: frozenset[str]
) -> frozenset[str]:
    """Rules 1 and 3: the values that are integer, or lie between two that are."""
    needed: set[str] = set()
    for node in reversed(nodes):
        outputs = {name_of(v) for v in node.outputs}
        if node.name in static or (outputs & capable and outputs & needed):
            needed.update(name_of(v) for v in activations(node))
    return frozenset(needed)


def _fused(node: ir.Node, integer: frozenset[str]) -> Iterator[str]:
    """Rule 4: the node's output, where nothing is quantized behind it."""
    value = node.outputs[0]
    consumers = {use.node for use in value.uses()}
    if len(consumers) != 1 or value.is_graph_output() or name_of(value) not in integer:
        return
    (consumer,) = consumers
    if name_of(consumer.outputs[0]) not in integer:
        return
    operator = OPERATORS.get(consumer.op_type)
    absorbed = operator is not None and operator.absorbed and kind(node) not in ("view", "concat")
    gate = (
        node.op_type in ("Sigmoid", "HardSigmoid")
        and consumer.op_type == "Mul"
        and any(other is node.inputs[0] for other in consumer.inputs)
    )
    if absorbed or gate or (_is_pointwise(node) and _is_pointwise(consumer)):
        yield name_of(value)


def _is_pointwise(node: ir.Node) -> bool:
    """Whether each output element is a function of one activation's element (and constants)."""
    if kind(node) == "unary":
        return True
    return (
        kind(node) == "arithmetic"
        and len(activations(node)) == 1
        and node.op_type in ("Add", "Sub", "Mul", "Div", "PRelu", "BatchNormalization")
    )


def _is_used(value: ir.Value, ties: dict[str, str]) -> bool:
    """Whether anything but a view that shares its parameters takes the value."""
    root = ties[name_of(value)]
    return value.is_graph_output() or any(
        kind(use.node) != "view" or all(ties.get(name_of(v)) != root for v in use.node.outputs)
        for use in value.uses()
    )


def _pads_with_zero(node: ir.Node) -> bool:
    if (
        len(node.inputs) < 3
        or node.inputs[2] is None
        or _string(node, "mode", "constant") != ("constant")
    ):
        return True
    value = node.inputs[2].const_value
    return value is not None and not value.numpy().any()


def _bias_is_constant(node: ir.Node) -> bool:
    bias = OPERATORS[node.op_type].bias
    assert bias is not None
    return node.inputs[bias] is None or constant(node.inputs[bias])


def _integer(node: ir.Node, attribute: str, default: int) -> int:
    attr = node.attributes.get(attribute)
    return default if attr is None else attr.as_int()


def _string(node: ir.Node, attribute: str, default: str) -> str:
    attr = node.attributes.get(attribute)
    return default if attr is None else attr.as_string()
