"""Which operators run in the engine and which elsewhere: stages that alternate between the two.

Rules, in order:

1. What depends on constants and shapes alone is in no stage: it is computed when programs are
   compiled.
2. An operator that the engine does not know runs elsewhere.
3. Only floats, whole numbers and truth values cross a border. A QuantizeLinear elsewhere takes its
   readers with it, and a DequantizeLinear what it reads.
4. What lies between operators elsewhere, and multiplies no matrices, runs elsewhere too: a border
   costs more than it.
5. Every operator is in the first stage that it can be in.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from intact.engine.lowering import LOWERINGS

__all__ = ["PRODUCTS", "Segments", "Stage", "reads", "segments", "unknown"]

PRODUCTS: Final = frozenset(
    {
        "Conv", "ConvTranspose", "DynamicConv", "DynamicConvTranspose", "DynamicGRU",
        "DynamicLSTM", "DynamicMatMul", "GRU", "Gemm", "LSTM", "MatMul",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Stage:
    """nodes: in order. elsewhere: whether another runtime runs them.

    reads, writes: the values that cross its borders.
    """

    nodes: tuple[ir.Node, ...]
    elsewhere: bool
    reads: tuple[ir.Value, ...]
    writes: tuple[ir.Value, ...]


@dataclass(frozen=True, eq=False)
class Segments:
    """stages: in order. fixed: nodes that depend on constants alone; free: on shapes too."""

    stages: tuple[Stage, ...]
    fixed: frozenset[ir.Node]
    free: frozenset[ir.Node]
    elsewhere: frozenset[ir.Node]


def unknown(graph: ir.Graph) -> frozenset[ir.Node]:
    """Rule 2: nodes of operators that the engine does not know."""
    _, free = _known_before(graph, frozenset())
    return frozenset(
        node for node in graph
        if node not in free and (node.domain, node.op_type) not in LOWERINGS
    )  # fmt: skip


def segments(graph: ir.Graph, elsewhere: Collection[ir.Node]) -> Segments:
    """The stages of a graph of which some nodes run elsewhere."""
    moved = _closed(graph, set(elsewhere))
    while moved:
        fixed, free = _known_before(graph, moved)
        between = _between(graph, free, moved)
        if not between:
            break
        moved = _closed(graph, moved | between)
    fixed, free = _known_before(graph, moved)
    level = _levels(graph, free, moved)
    last = max((n for n in level.values() if n % 2), default=1)
    stages = [
        _stage(graph, [node for node in graph if level.get(node) == n], n, n == last, free)
        for n in sorted({*level.values(), last})
    ]
    return Segments(tuple(stages), fixed, free, frozenset(moved))


def reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, in its subgraphs too."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        inner: Iterable[ir.Graph] = ()
        if attribute.type == ir.AttributeType.GRAPH:
            inner = (attribute.value,)
        elif attribute.type == ir.AttributeType.GRAPHS:
            inner = attribute.value
        for graph in inner:
            own = {*graph.inputs, *(value for inside in graph for value in inside.outputs)}
            for value in (v for inside in graph for v in reads(inside)):
                if value not in own and str(value.name) not in graph.initializers:
                    yield value


def _known_before(
    graph: ir.Graph, elsewhere: Collection[ir.Node]
) -> tuple[frozenset[ir.Node], frozenset[ir.Node]]:
    """Rule 1: nodes that depend on constants alone, and those that depend on shapes too."""
    fixed: set[ir.Node] = set()
    free: set[ir.Node] = set()
    for node in graph:
        if node in elsewhere or node.op_type.startswith("Random"):
            continue
        sources = [None if v.const_value is not None else v.producer() or node for v in reads(node)]
        if all(source is None or source in fixed for source in sources):
            fixed.add(node)
        if node.op_type == "Shape" or all(s is None or s in free for s in sources):
            free.add(node)
    return frozenset(fixed), frozenset(free)


def _crosses(value: ir.Value) -> bool:
    """Rule 3: whether the value may cross a border."""
    producer = value.producer()
    quantized = producer is not None and producer.op_type == "QuantizeLinear"
    return not quantized and value.dtype not in (ir.DataType.INT8, ir.DataType.UINT8)


def _closed(graph: ir.Graph, elsewhere: set[ir.Node]) -> set[ir.Node]:
    """Rule 3."""
    todo = list(elsewhere)
    while todo:
        node = todo.pop()
        near = [use.node for v in node.outputs if not _crosses(v) for use in v.uses()]
        near += [p for v in reads(node) if not _crosses(v) and (p := v.producer()) is not None]
        for other in near:
            if other not in elsewhere and other.graph is graph:
                elsewhere.add(other)
                todo.append(other)
    return elsewhere


def _between(graph: ir.Graph, free: Collection[ir.Node], elsewhere: set[ir.Node]) -> set[ir.Node]:
    """Rule 4: groups of connected nodes of one stage that have a border before and behind them."""
    level = _levels(graph, free, elsewhere)
    group: dict[ir.Node, set[ir.Node]] = {}
    for node in (n for n in graph if n in level and n not in elsewhere):
        joined = {node}
        for value in reads(node):
            other = value.producer()
            if other in group and level[other] == level[node]:
                joined |= group[other]
        for member in joined:
            group[member] = joined
    found: set[ir.Node] = set()
    for members in {id(g): g for g in group.values()}.values():
        before = any(v.producer() in elsewhere for n in members for v in reads(n))
        behind = any(use.node in elsewhere for n in members for v in n.outputs for use in v.uses())
        if before and behind and not any(n.op_type in PRODUCTS for n in members):
            found |= members
    return found


def _levels(
    graph: ir.Graph, free: Collection[ir.Node], elsewhere: Collection[ir.Node]
) -> dict[ir.Node, int]:
    """Rule 5: the stage of each node; those of even number are elsewhere."""
    level: dict[ir.Node, int] = {}
    here: dict[ir.Node, int] = {}  # the first stage in which the engine may read the node
    there: dict[ir.Node, int] = {}
    for node in graph:
        sources = [p for v in reads(node) if (p := v.producer()) in here]
        if node in free:
            here[node] = max((here[p] for p in sources), default=1)
            there[node] = max((there[p] for p in sources), default=0)
        elif node in elsewhere:
            level[node] = there[node] = max((there[p] for p in sources), default=0)
            here[node] = level[node] + 1
        else:
            level[node] = here[node] = max((here[p] for p in sources), default=1)
            there[node] = level[node] + 1
    return level


def _stage(
    graph: ir.Graph, nodes: list[ir.Node], number: int, last: bool, free: Collection[ir.Node]
) -> Stage:
    elsewhere, inside, results = number % 2 == 0, set(nodes), set(graph.outputs)
    read: dict[ir.Value, None] = {}
    for node in nodes:
        for value in reads(node):
            producer = value.producer()
            known = value.const_value is not None or producer in free
            if not known and producer not in inside:
                read[value] = None
    # Shapes of what the engine computes are known without computing it.
    written = [
        value for node in nodes for value in node.outputs
        if value in results or any(
            use.node not in inside and (elsewhere or use.node not in free) for use in value.uses()
        )
    ]  # fmt: skip
    if last:
        # Results that nobody computes: inputs and what is known before.
        for value in dict.fromkeys(graph.outputs):
            producer = value.producer()
            if producer is None or producer in free:
                written.append(value)
                if producer is None and value.const_value is None:
                    read[value] = None
    return Stage(tuple(nodes), elsewhere, tuple(read), tuple(written))
