"""What is in a quantized file: operator by operator, as stored and as it runs."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from intact.evaluate.operators import operators
from intact.run.model import QuantizedModel

__all__ = ["Inspection", "OperatorRow", "inspect"]


_RUNTIMES: Final = {"native": "intact's engine", "onnxruntime": "ONNX Runtime"}


@dataclass(frozen=True)
class OperatorRow:
    """One operator.

    mode: "static", "dynamic" or "float"; reason: why.
    runs_as: the runtime's operator, "" where it multiplies no matrices; integer: whether that
        multiplies integers.
    input_dtype, scale, zero_point: of its first quantized activation; None if computed at run
        time or float.
    weight_dtype: of its stored weight; weight_bytes: its stored size.
    macs_share: of the multiply-accumulates of the whole model.
    """

    name: str
    op_type: str
    mode: str
    reason: str
    runs_as: str
    integer: bool
    input_dtype: str | None
    scale: float | None
    zero_point: int | None
    weight_dtype: str | None
    weight_bytes: int
    macs_share: float


@dataclass(frozen=True)
class Inspection:
    """A model's operators and totals; prints as a table.

    elsewhere: names of operators that run in ONNX Runtime though the engine runs the model.
    """

    rows: tuple[OperatorRow, ...]
    size: int
    float_bytes: int
    target: str
    runtime: str
    elsewhere: tuple[str, ...] = ()

    @property
    def integer_share(self) -> float:
        """The share of multiply-accumulates that run as integers."""
        return sum(row.macs_share for row in self.rows if row.integer)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able data."""
        return {
            "size": self.size,
            "float_bytes": self.float_bytes,
            "target": self.target,
            "runtime": self.runtime,
            "elsewhere": list(self.elsewhere),
            "integer_share": self.integer_share,
            "operators": [asdict(row) for row in self.rows],
        }

    def __str__(self) -> str:
        header = ("operator", "type", "mode", "runs as", "input", "scale", "zero point", "weight",
                  "bytes", "MACs %", "why")  # fmt: skip
        table = [header, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(header) - 1)]
        lines = [
            "  ".join(
                [*(c.ljust(w) for c, w in zip(line, widths, strict=False)), line[-1]]
            ).rstrip()
            for line in table
        ]
        modes = Counter(row.mode for row in self.rows)
        counted = ", ".join(f"{n} {mode}" for mode, n in modes.items() if mode)
        weighted = [row for row in self.rows if row.runs_as]
        integer = sum(row.integer for row in weighted)
        size = f"{self.size / 1e6:.2f} MB"
        if self.float_bytes:
            size += f" ({100 * self.size / self.float_bytes:.1f} % of float)"
        lines += [
            "",
            f"{counted or 'no decisions of intact'}; {size}"
            + (f"; target {self.target}" if self.target else ""),
            f"{integer} of {len(weighted)} operators that multiply matrices run as int8 in "
            f"{_RUNTIMES[self.runtime]}, with {100 * self.integer_share:.1f} % of the "
            "multiply-accumulates",
        ]
        if self.elsewhere:
            lines.append(
                f"{len(self.elsewhere)} operators run in ONNX Runtime: {', '.join(self.elsewhere)}"
            )
        return "\n".join(lines)


def inspect(model: QuantizedModel, example: Mapping[str, NDArray[Any]] | None = None) -> Inspection:
    """What is in a quantized model, and what the runtime makes of it.

    example: inputs whose shapes the work is counted for (see `evaluate.operators`).
    """
    stored = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    found = operators(model, example)
    running = {op.name: op for op in found}
    total = sum(op.macs for op in found) or 1
    rows = []
    decisions = model.decisions or {
        op.name: {"op_type": op.op_type, "mode": "", "reason": ""} for op in found
    }
    for name, entry in decisions.items():
        op = running.get(name)
        activation = next(iter(entry.get("activations", [])), None)
        weight = [
            stored[f"{w}_quantized"] for w in entry.get("weights", []) if f"{w}_quantized" in stored
        ]
        dtype, scale, zero_point = _parameters(stored, activation)
        if entry["mode"] == "dynamic":
            dtype = "uint8"
        rows.append(
            OperatorRow(
                name,
                str(entry["op_type"]),
                str(entry["mode"]),
                str(entry["reason"]),
                op.runs_as if op else "",
                bool(op and op.integer),
                dtype,
                scale,
                zero_point,
                _dtype(weight[0]) if weight else None,
                sum(_bytes(tensor) for tensor in weight),
                op.macs / total if op else 0.0,
            )
        )
    return Inspection(
        tuple(rows), model.size, model.float_bytes, model.target, model.runtime,
        model.session.elsewhere,
    )  # fmt: skip


def _parameters(
    stored: Mapping[str, onnx.TensorProto], activation: str | None
) -> tuple[str | None, float | None, int | None]:
    scale, point = stored.get(f"{activation}_scale"), stored.get(f"{activation}_zero_point")
    if scale is None or point is None:
        return None, None, None
    number = onnx.numpy_helper.to_array(scale).reshape(-1)[0]
    return _dtype(point), float(number), int(onnx.numpy_helper.to_array(point).reshape(-1)[0])


def _dtype(tensor: onnx.TensorProto) -> str:
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)))


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(onnx.numpy_helper.to_array(tensor).nbytes)


def _cells(row: OperatorRow) -> tuple[str, ...]:
    at_run_time = "at run time" if row.mode == "dynamic" else ""
    return (
        row.name,
        row.op_type,
        row.mode,
        row.runs_as,
        row.input_dtype or "",
        f"{row.scale:.4g}" if row.scale is not None else at_run_time,
        str(row.zero_point) if row.zero_point is not None else "",
        row.weight_dtype or "",
        f"{row.weight_bytes:,}" if row.weight_bytes else "",
        f"{100 * row.macs_share:.1f}" if row.runs_as else "",
        row.reason,
    )
