"""Decisions as data: what becomes of every operator, and with which scale and zero point.

A plan can be printed, saved as JSON, edited by hand, compared and carried out by `emit`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from intact.core.errors import PlanError
from intact.core.files import write_atomically
from intact.core.qparams import BOUNDS, QParams

__all__ = ["Decision", "Mode", "Plan"]

Mode = Literal["static", "dynamic", "float"]
_MODES: Final = ("static", "dynamic", "float")
_FORMAT: Final = "intact-plan-1"


@dataclass(frozen=True)
class Decision:
    """What becomes of one operator.

    mode: "static" or "dynamic" (integer arithmetic), or "float".
    op_type: the ONNX operator, for the reader.
    reason: why, in one sentence.
    tensors: value name -> its parameters: the operator's quantized inputs, weights and outputs.
        A dynamic operator names its weights only, since its activations' are computed at run time.
    evidence: what was measured for the decision, for the reader.
    """

    mode: Mode
    op_type: str
    reason: str
    tensors: Mapping[str, QParams] = field(default_factory=dict)
    evidence: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Operator name -> decision, in the graph's order.

    Raises PlanError if two decisions give one tensor different parameters.
    """

    decisions: Mapping[str, Decision]

    def __post_init__(self) -> None:
        seen: dict[str, tuple[str, QParams]] = {}
        for operator, decision in self.decisions.items():
            for name, qparams in decision.tensors.items():
                other, known = seen.setdefault(name, (operator, qparams))
                if known != qparams:
                    raise PlanError(
                        f"tensor '{name}' has scale {known.scale} and zero_point "
                        f"{known.zero_point} in operator '{other}', but {qparams.scale} and "
                        f"{qparams.zero_point} in '{operator}'; give it the same in both"
                    )

    def __getitem__(self, operator: str) -> Decision:
        return self.decisions[operator]

    def __iter__(self) -> Iterator[str]:
        return iter(self.decisions)

    def __len__(self) -> int:
        return len(self.decisions)

    @property
    def tensors(self) -> dict[str, QParams]:
        """Value name -> parameters, of all decisions together."""
        return {n: q for d in self.decisions.values() for n, q in d.tensors.items()}

    def __str__(self) -> str:
        counts = Counter(decision.mode for decision in self.decisions.values())
        lines = [", ".join(f"{counts[mode]} {mode}" for mode in _MODES if counts[mode])]
        width = max((len(name) for name in self.decisions), default=0)
        for name, decision in self.decisions.items():
            lines.append(
                f"{name:{width}}  {decision.op_type:20} {decision.mode:8} {decision.reason}"
            )
        return "\n".join(lines)

    def to_json(self) -> str:
        """The plan as JSON text; the same plan always gives the same text."""
        decisions = {
            name: {
                "mode": d.mode,
                "op_type": d.op_type,
                "reason": d.reason,
                "tensors": {n: _qparams_to_json(q) for n, q in d.tensors.items()},
                "evidence": dict(d.evidence),
            }
            for name, d in self.decisions.items()
        }
        return json.dumps({"format": _FORMAT, "decisions": decisions}, indent=1)

    @staticmethod
    def from_json(text: str) -> "Plan":
        """Read what `to_json` wrote, perhaps edited. Raises PlanError if it is not that."""
        try:
            content = json.loads(text, object_pairs_hook=_without_repetition)
        except (ValueError, RecursionError) as error:
            raise PlanError(f"the plan is not JSON: {error}") from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise PlanError(f"the JSON is not a plan; its 'format' must be '{_FORMAT}'")
        entries = content.get("decisions")
        if not isinstance(entries, dict):
            raise PlanError("the plan's 'decisions' must map operator names to decisions")
        decisions: dict[str, Decision] = {}
        for name, entry in entries.items():
            try:
                decisions[name] = _decision_from_json(entry)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                fault = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
                raise PlanError(f"operator '{name}' in the plan: {fault}") from None
        return Plan(decisions)

    def save(self, path: str | Path) -> None:
        """Write `to_json` to a file. Raises OutputPathError if it cannot be written."""
        write_atomically(Path(path), self.to_json().encode())

    @staticmethod
    def load(path: str | Path) -> "Plan":
        """Read a file that `save` wrote. Raises PlanError if it is not that."""
        try:
            return Plan.from_json(Path(path).read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"the plan '{path}' cannot be read: {error}") from None


def _qparams_to_json(qparams: QParams) -> dict[str, Any]:
    return {
        "dtype": qparams.dtype,
        "axis": qparams.axis,
        # float32 values print exactly through float64's shortest form, and read back the same.
        "scale": qparams.scale.astype(np.float64).tolist(),
        "zero_point": qparams.zero_point.tolist(),
    }


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a name occurs twice, which JSON readers let pass."""
    result = dict(pairs)
    if len(result) != len(pairs):
        name, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"'{name}' occurs twice in one object")
    return result


def _decision_from_json(entry: dict[str, Any]) -> Decision:
    mode, op_type, reason = entry["mode"], entry["op_type"], entry["reason"]
    if mode not in _MODES:
        raise ValueError(f"mode is '{mode}', not one of {', '.join(_MODES)}")
    if not (isinstance(op_type, str) and isinstance(reason, str)):
        raise TypeError("op_type and reason must be text")
    evidence = entry["evidence"]
    if not all(type(value) in (str, int, float) for value in evidence.values()):
        raise ValueError("evidence must map names to numbers or text")
    tensors: dict[str, QParams] = {}
    for name, parameters in entry["tensors"].items():
        try:
            tensors[name] = _qparams_from_json(parameters)
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"tensor '{name}': {error}") from None
    return Decision(mode, op_type, reason, tensors, evidence)


def _qparams_from_json(entry: dict[str, Any]) -> QParams:
    dtype, axis = entry["dtype"], entry["axis"]
    if dtype not in BOUNDS:
        raise ValueError(f"dtype is '{dtype}', not one of {', '.join(BOUNDS)}")
    if axis is not None and type(axis) is not int:
        raise ValueError(f"axis is {axis!r}, not a whole number or null")
    scale, zero_point = np.asarray(entry["scale"]), np.asarray(entry["zero_point"])
    if scale.dtype.kind not in "if" or zero_point.dtype.kind != "i":
        raise ValueError("scale must be numbers and zero_point whole numbers")
    low, high = BOUNDS[dtype]
    if (zero_point < low).any() or (zero_point > high).any():
        raise ValueError(f"zero_point {zero_point} lies outside {dtype}'s [{low}, {high}]")
    with np.errstate(over="ignore"):  # a scale beyond float32 is infinite, which QParams refuses
        return QParams(scale.astype(np.float32), zero_point.astype(np.int32), dtype, axis)
