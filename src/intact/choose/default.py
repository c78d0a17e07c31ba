"""The default plan: every operator that can be quantized is, in the mode that was asked for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.choose.options import Options, matches
from intact.core.errors import CalibrationError, NotObserved, PlanError
from intact.core.plan import Decision, Mode, Plan
from intact.core.qparams import Dtype, QParams, asymmetric, symmetric
from intact.core.ranges import METHODS, Method, weight_qparams
from intact.core.statistics import Statistics, TensorStatistics
from intact.graph.operators import OPERATORS
from intact.graph.passes.attention import ATTENTION
from intact.graph.recurrent import unsupported
from intact.graph.walk import (
    Sites,
    activations,
    input_name,
    is_gate,
    is_lookup,
    is_weighted,
    kind,
    known_range,
    sites,
)

__all__ = ["candidates", "choose"]

# A bias at the accumulator's scale keeps two bits of headroom below int32's limit.
_LARGEST_BIAS: Final = 2.0**29
# Concatenated tensors share parameters if none would lose more than one bit of its own.
_SHARED_RANGE: Final = 0.5

_STORED: Final = "one value a channel is little work, and scales the channel: only weights are int8"
_FLOAT_REASONS: Final = {
    "recurrent": "no runtime computes a static one in integers; overrides may ask for dynamic",
    "LayerNormalization": "normalization is cheap, and its result carries the model's precision",
    "Softmax": "softmax is cheap, and its input must not be rounded",
    "MatMul": "a product of two activations: little work, sensitive to rounding",
    "attention": "attention's product of two activations: little work, sensitive to rounding",
}


def candidates(graph: ir.Graph) -> Sites:
    """Where the graph would be quantized if everything were: what calibration has to observe."""
    return sites(graph, {str(n.name) for n in graph if _quantizable(n) or _is_product(n)})


def choose(graph: ir.Graph, options: Options, statistics: Statistics | None = None) -> Plan:
    """The default plan for a prepared graph.

    statistics: of the values in `candidates(graph).observed`; needed if anything is static.
    Raises NotObserved or CalibrationError, naming the tensor, where statistics say nothing about a
    range that is needed, and PlanError where options contradict the graph.
    """
    nodes = list(graph)
    options.require_used(nodes)
    wanted = {str(n.name): _mode(n, options) for n in nodes if _quantizable(n) or _is_product(n)}
    static = {name for name, (mode, _) in wanted.items() if mode == "static"}
    static -= {str(n.name) for n in nodes if _stores_only(n, options)}
    excluded = {
        str(n.name) for n in nodes if n.name not in wanted and _mode(n, options)[0] == "float"
    }
    where = sites(graph, static, excluded)
    if where.quantized and statistics is None:
        raise CalibrationError(
            "static quantization needs the ranges of activations; give calibration data, or "
            'use mode="dynamic"'
        )
    ranges = _Ranges(graph, where, statistics, options).qparams() if statistics else {}
    decisions = {}
    for node in nodes:
        decision = _decide(node, wanted, where, ranges)
        if decision is not None:
            decisions[str(node.name)] = decision
    return Plan(decisions)


def _quantizable(node: ir.Node) -> bool:
    return kind(node) in ("weighted", "recurrent")


def _is_product(node: ir.Node) -> bool:
    """Whether the node is a matrix product of two activations."""
    return node.op_type == "MatMul" and not is_weighted(node) and len(activations(node)) == 2


def _mode(node: ir.Node, options: Options) -> tuple[Mode, str]:
    """The mode that is asked for an operator, and why."""
    asked = options.override(node).mode
    if asked is not None:
        mode, reason = asked, "as asked in overrides"
    elif any(matches(node, selector) for selector in options.exclude):
        mode, reason = "float", "as asked in exclude"
    elif _is_product(node):
        kind_of_product = "attention" if ATTENTION in node.metadata_props else "MatMul"
        mode, reason = "float", _FLOAT_REASONS[kind_of_product]
    elif (
        options.include is not None
        and _quantizable(node)
        and not any(matches(node, selector) for selector in options.include)
    ):
        mode, reason = "float", "not among include"
    elif kind(node) == "recurrent" and options.mode == "static":
        mode, reason = "float", _FLOAT_REASONS["recurrent"]
    else:
        mode, reason = options.mode, f"the model's mode is {options.mode}"
    if mode == "dynamic" and (obstacle := _no_dynamic(node)):
        if asked is not None:
            raise PlanError(f"operator '{node.name}' cannot be dynamic: {obstacle}")
        return "float", obstacle
    return mode, reason


def _stores_only(node: ir.Node, options: Options) -> bool:
    """Whether only the weights of a static operator become integers."""
    return is_gate(node) and options.override(node).mode is None


def _no_dynamic(node: ir.Node) -> str | None:
    """Why an operator has no dynamic form; None if it has one."""
    if _is_product(node):
        return _FLOAT_REASONS["MatMul"]
    if kind(node) == "recurrent":
        return unsupported(node)
    padding = node.attributes.get("auto_pad")
    if padding is not None and padding.as_string() not in ("NOTSET", "VALID"):
        return f"its padding depends on the input's size (auto_pad={padding.as_string()})"
    if "output_shape" in node.attributes:
        return "its padding depends on the input's size (output_shape)"
    return None


def _decide(
    node: ir.Node,
    wanted: Mapping[str, tuple[Mode, str]],
    where: Sites,
    ranges: Mapping[str, tuple[QParams, dict[str, float | str]]],
) -> Decision | None:
    """The decision on one operator; None if it only moves or counts things."""
    name = str(node.name)
    taken = {v: ranges[v][0] for v in where.operators.get(name, ())}
    if name in wanted:
        mode, reason = wanted[name]
        if mode == "float":
            return Decision("float", node.op_type, reason)
        if mode == "static" and name not in where.operators:
            return Decision("static", node.op_type, _STORED, _weights(node, None))
        x = input_name(node, 0)
        evidence = ranges[x][1] if mode == "static" else {}
        weights = {} if _is_product(node) else _weights(node, taken.get(x))
        return Decision(mode, node.op_type, reason, {**taken, **weights}, evidence)
    if is_lookup(node):
        table = node.inputs[0]
        assert table is not None
        qparams = weight_qparams(_array(table), axis=0, method="minmax")
        return Decision(
            "static", node.op_type, "rows are stored as int8", {str(table.name): qparams}
        )
    if name in where.operators:
        return Decision("static", node.op_type, "its neighbours are integer", taken)
    if kind(node) == "view" or not any(v.dtype == ir.DataType.FLOAT for v in node.outputs):
        return None
    return Decision("float", node.op_type, _float_reason(node))


def _float_reason(node: ir.Node) -> str:
    if node.op_type in OPERATORS and OPERATORS[node.op_type].kind in ("weighted", "recurrent"):
        return "its weight is computed at run time or scaled in a way that has no integer form"
    return _FLOAT_REASONS.get(node.op_type, "its neighbours are float")


def _weights(node: ir.Node, x: QParams | None) -> dict[str, QParams]:
    """Parameters of an operator's weights: symmetric int8, one scale per output channel."""
    if kind(node) == "recurrent":
        # Rows of W and R [directions, gates * hidden, ...] belong to one gate of one unit.
        return {str(v.name): weight_qparams(_array(v), axis=1) for v in node.inputs[1:3] if v}
    weight = node.inputs[1]
    assert weight is not None
    qparams = weight_qparams(_array(weight), _channel_axis(node))
    if x is not None:
        qparams = _with_room_for_bias(node, x, qparams)
    return {str(weight.name): qparams}


def _channel_axis(node: ir.Node) -> int:
    """The axis of the weight that output channels lie on."""
    if node.op_type == "Gemm":
        transposed = node.attributes.get("transB")
        return 0 if transposed is not None and transposed.as_int() else 1
    return 0 if node.op_type == "Conv" else 1


def _with_room_for_bias(node: ir.Node, x: QParams, weight: QParams) -> QParams:
    """Raise the scale of near-dead channels until the bias fits int32 at `scale_x * scale_w`."""
    index = OPERATORS[node.op_type].bias
    bias = node.inputs[index] if index is not None and len(node.inputs) > index else None
    if (
        bias is None
        or bias.const_value is None
        or bias.const_value.size not in (1, weight.scale.size)
    ):
        return weight
    needed = np.abs(_array(bias).reshape(-1)) / (np.float64(x.scale) * _LARGEST_BIAS)
    scale = np.maximum(weight.scale, needed).astype(np.float32)
    return QParams(scale, weight.zero_point, weight.dtype, weight.axis)


def _array(value: ir.Value) -> NDArray[np.float32]:
    assert value.const_value is not None
    return value.const_value.numpy()


@dataclass(frozen=True)
class _Ranges:
    """From statistics to the parameters of every quantized activation."""

    graph: ir.Graph
    where: Sites
    statistics: Statistics
    options: Options

    def qparams(self) -> dict[str, tuple[QParams, dict[str, float | str]]]:
        """Value -> its parameters and the evidence for them."""
        groups = self._groups()
        values = {str(v.name): v for v in self.graph.inputs}
        values |= {str(v.name): v for node in self.graph for v in node.outputs}
        chosen: dict[str, tuple[QParams, dict[str, float | str]]] = {}
        for root, members in groups.items():
            known = {known_range(values[m]) for m in members}
            entry: tuple[QParams, dict[str, float | str]]
            if len(known) == 1 and (fixed := known.pop()) is not None:
                entry = (_from_range(*fixed, self.options.activations), {"range": "known"})
            else:
                entry = self._from_statistics(root, members)
            chosen |= dict.fromkeys(members, entry)
        return chosen

    def _groups(self) -> dict[str, list[str]]:
        """First value -> all values that share its parameters."""
        roots = dict(self.where.ties)
        for inputs, output in self.where.concats.values():
            for value in inputs:
                if self._may_share(roots, value, output):
                    old, new = roots[value], roots[output]
                    roots = {name: new if root == old else root for name, root in roots.items()}
        groups: dict[str, list[str]] = {}
        for name, root in roots.items():
            groups.setdefault(root, []).append(name)
        return groups

    def _may_share(self, roots: Mapping[str, str], value: str, output: str) -> bool:
        """Whether a concatenation's input loses at most a bit by taking its output's range."""
        widths = []
        for name in (value, output):
            members = [n for n, root in roots.items() if root == roots[name]]
            stats = self._merged(members)
            widths.append(max(stats.high, 0.0) - min(stats.low, 0.0))
        return bool(min(widths) >= _SHARED_RANGE * max(widths))

    def _merged(self, members: list[str]) -> TensorStatistics:
        merged = TensorStatistics()
        for name in members:
            if name in self.statistics:
                merged = merged.merge(self.statistics[name])
        return merged

    def _from_statistics(
        self, root: str, members: list[str]
    ) -> tuple[QParams, dict[str, float | str]]:
        stats = self._merged(members)
        if stats.samples == 0:
            raise NotObserved(
                f"activation '{root}' was never reached by the calibration data; give data that "
                "reaches it, or leave the operators that read it in float with exclude="
            )
        if stats.low == stats.high:
            raise CalibrationError(
                f"activation '{root}' has the value {stats.low:g} in all of the calibration data, "
                "so its range is unknown; give data that varies, or leave the operators that read "
                "it in float with exclude="
            )
        method = self._method(members)
        floor = self._floor(members)
        low, high = METHODS[method](stats if floor is None else stats.raised(floor))
        evidence: dict[str, float | str] = {
            "method": method,
            "low": low,
            "high": high,
            "observed_low": stats.low,
            "observed_high": stats.high,
            "range_variation": _variation(stats),
        }
        return _from_range(low, high, self.options.activations), evidence

    def _floor(self, members: list[str]) -> float | None:
        """The value below which none of the values' readers tells anything apart."""
        values = {str(v.name): v for node in self.graph for v in node.outputs}
        floors = []
        for name in members:
            for use in values[name].uses() if name in values else ():
                if use.node.op_type not in OPERATORS:
                    return None
                floors.append(OPERATORS[use.node.op_type].flat_below)
        known = [floor for floor in floors if floor is not None]
        return min(known) if known and len(known) == len(floors) else None

    def _method(self, members: list[str]) -> Method:
        """The method asked for by an operator that reads or gives one of these values."""
        nodes = {str(node.name): node for node in self.graph}
        for operator, names in self.where.operators.items():
            if not set(members).isdisjoint(names):
                asked = self.options.override(nodes[operator]).method
                if asked is not None:
                    return asked
        return self.options.method


def _from_range(low: float, high: float, dtype: Dtype) -> QParams:
    return symmetric(max(-low, high), "int8") if dtype == "int8" else asymmetric(low, high)


def _variation(stats: TensorStatistics) -> float:
    """The standard deviation of per-sample ranges over their mean: how (un)stable the range is."""
    mean = stats.high_mean - stats.low_mean
    return math.hypot(stats.low_std, stats.high_std) / mean if mean > 0 else 0.0
