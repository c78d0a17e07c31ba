"""Several models side by side: accuracy, fidelity, latency, size, and what really runs as int8."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from intact.core.errors import InputError
from intact.evaluate.accuracy import Top1, labels_of
from intact.evaluate.batch import batch_dependence
from intact.evaluate.fidelity import Fidelity
from intact.evaluate.latency import interleaved, speedup
from intact.evaluate.operators import operators
from intact.run.model import OnnxModel, QuantizedModel

__all__ = ["Comparison", "OutputFidelity", "Row", "compare"]

Metric = Callable[[Callable[..., Any]], float] | Literal["top1"] | None


@dataclass(frozen=True)
class OutputFidelity:
    """How near one output is to the float model's; see `evaluate.fidelity`."""

    output: str
    sqnr_db: float
    cosine: float
    agreement: float | None
    largest_error: float


@dataclass(frozen=True)
class Row:
    """One model.

    accuracy: by the metric (percent for "top1"), None without one; drop: the float model's minus
        this one's.
    milliseconds: median latency of one batch; speedup: times faster than float in the same run.
    integer_operators, operators: how many of the operators that multiply matrices run as int8;
        integer_share: their share of the multiply-accumulates. None for the float model.
    batch_dependence: what company in the batch changes, in standard deviations of the output; None
        if the batch is fixed.
    """

    name: str
    size: int
    size_ratio: float
    accuracy: float | None
    drop: float | None
    fidelity: tuple[OutputFidelity, ...]
    milliseconds: float
    speedup: float
    integer_operators: int | None
    operators: int | None
    integer_share: float | None
    batch_dependence: float | None

    @property
    def effective_drop(self) -> float | None:
        """The drop in accuracy; without a metric the share of samples, in percent, whose class
        differs from float's, which bounds the drop of top-1 from above."""
        if self.drop is not None:
            return self.drop
        shares = [f.agreement for f in self.fidelity if f.agreement is not None]
        return 100 * (1 - min(shares)) if shares else None


@dataclass(frozen=True)
class Comparison:
    """The float model (first row) and its quantized versions; prints as a table."""

    rows: tuple[Row, ...]
    metric: str | None

    def __getitem__(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able data."""
        return {"metric": self.metric, "models": [asdict(row) for row in self.rows]}

    def check(self, max_drop: float | None = None, min_speedup: float | None = None) -> list[str]:
        """What falls short of the limits, a sentence each; empty if nothing does.

        Raises InputError if a drop is to be limited but nothing tells it (no metric, no classes).
        """
        faults = []
        for row in self.rows[1:]:
            drop = row.effective_drop
            if max_drop is not None and drop is None:
                raise InputError(
                    "a limit on the drop needs labels, a metric, or an output of class scores; "
                    "give labels with the data"
                )
            if max_drop is not None and drop is not None and drop > max_drop:
                faults.append(f"{row.name}: drop {drop:.2f} is more than {max_drop:g}")
            if min_speedup is not None and row.speedup < min_speedup:
                faults.append(f"{row.name}: speedup {row.speedup:.2f} is less than {min_speedup:g}")
        return faults

    def __str__(self) -> str:
        several = any(len(row.fidelity) > 1 for row in self.rows)
        header = ["model", "MB", "of float", "ms", "speedup"]
        header += [self.metric or "", "drop"] if self.metric else []
        header += ["SQNR dB", "cosine", "same class", "int8 operators", "batch dependence"]
        table = [header]
        for row in self.rows:
            table.append(_cells(row, self.metric is not None))
            if several:
                table += [_output_cells(f, len(header)) for f in row.fidelity]
        widths = [max(len(line[i]) for line in table) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w)
                for i, (cell, w) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in table
        ]
        slower = [row for row in self.rows[1:] if row.speedup < 1]
        lines += [f"{row.name} is slower than float: {row.speedup:.2f}x" for row in slower]
        return "\n".join(lines)


def compare(
    reference: OnnxModel,
    candidates: Mapping[str, OnnxModel],
    data: Iterable[Any],
    *,
    metric: Metric = None,
    repetitions: int = 50,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Compare `candidates` with the float model `reference` on `data`, which is read once.

    data: batches as `Signature.bind_batch` takes them, with labels for metric "top1".
    metric: see `intact.compare`. repetitions: timed runs of each model on the first batch.
    progress: called with the number of batches done.
    Raises InputError if there is no data.
    """
    models = {"float": reference, **candidates}
    if len(models) <= len(candidates):
        raise InputError("a model to compare is called 'float', the reference's name; rename it")
    gathered, top1, first = _gather(models, data, metric == "top1", progress)
    times = interleaved(
        {name: _runner(model, first) for name, model in models.items()}, repetitions
    )
    accuracies: dict[str, float | None] = dict.fromkeys(models)
    if metric == "top1":
        accuracies = {name: top1[name].percent for name in models}
    elif metric is not None:
        accuracies = {name: float(metric(model)) for name, model in models.items()}
    rows = []
    for name, model in models.items():
        accuracy, before = accuracies[name], accuracies["float"]
        feeds = _renamed(model, first)
        integer = _integer(model, feeds) if name != "float" else (None, None, None)
        outputs = (spec.name for spec in reference.signature.outputs)
        fidelity = tuple(
            OutputFidelity(output, f.sqnr_db, f.cosine, f.agreement, f.largest_error)
            for output, f in zip(outputs, gathered[name], strict=True)
        )
        rows.append(
            Row(
                name,
                model.size,
                model.size / reference.size,
                accuracy,
                before - accuracy if before is not None and accuracy is not None else None,
                fidelity,
                sorted(times[name])[len(times[name]) // 2],
                speedup(times["float"], times[name]),
                *integer,
                batch_dependence(model, feeds, model.signature.inputs, model.signature.outputs),
            )
        )
    label = None if metric is None else metric if isinstance(metric, str) else _label(metric)
    return Comparison(tuple(rows), label)


def _gather(
    models: Mapping[str, OnnxModel],
    data: Iterable[Any],
    labelled: bool,
    progress: Callable[[int], None] | None,
) -> tuple[dict[str, list[Fidelity]], dict[str, Top1], dict[str, NDArray[Any]]]:
    """Fidelity and accuracy over the data, and the first batch for what needs only one."""
    reference = models["float"]
    gathered = {name: [Fidelity() for _ in reference.signature.outputs] for name in models}
    top1 = {name: Top1() for name in models}
    first: dict[str, NDArray[Any]] = {}
    for i, batch in enumerate(data):
        feeds = reference.signature.bind_batch(batch)
        first = first or feeds
        expected = reference.run(feeds)
        for name, model in models.items():
            results = expected if name == "float" else model.run(_renamed(model, feeds))
            if len(results) != len(expected):
                raise InputError(
                    f"'{name}' has {len(results)} outputs and the float model {len(expected)}; "
                    "compare versions of one model"
                )
            for fidelity, exact, close in zip(gathered[name], expected, results, strict=True):
                fidelity.add(exact, close)
            if labelled:
                top1[name].add(results[0], labels_of(batch))
        if progress is not None:
            progress(i + 1)
    if not first:
        raise InputError("the comparison's data is empty; give at least one batch")
    return gathered, top1, first


def _renamed(model: OnnxModel, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The float model's inputs under the names that another file gives them, in order."""
    names = [spec.name for spec in model.signature.inputs]
    if len(names) != len(feeds):
        raise InputError(
            f"one model takes {len(feeds)} inputs and another {len(names)} "
            f"({', '.join(names)}); compare versions of one model"
        )
    return (
        dict(feeds) if set(names) == set(feeds) else dict(zip(names, feeds.values(), strict=True))
    )


def _runner(model: OnnxModel, feeds: Mapping[str, NDArray[Any]]) -> Callable[[], object]:
    renamed = _renamed(model, feeds)
    return lambda: model.run(renamed)


def _integer(
    model: OnnxModel, feeds: Mapping[str, NDArray[Any]]
) -> tuple[int | None, int | None, float | None]:
    """How many operators run as integers, of how many, and their share of the work."""
    if not isinstance(model, QuantizedModel):
        return None, None, None
    found = operators(model, feeds)
    integer = [op for op in found if op.integer]
    work = sum(op.macs for op in found)
    share = sum(op.macs for op in integer) / work if work else None
    return len(integer), len(found), share


def _label(metric: Callable[..., Any]) -> str:
    name = getattr(metric, "__name__", "metric")
    return "metric" if name == "<lambda>" else str(name)


def _cells(row: Row, with_metric: bool) -> list[str]:
    agreements = [f.agreement for f in row.fidelity if f.agreement is not None]
    cells = [
        row.name,
        f"{row.size / 1e6:.2f}",
        f"{100 * row.size_ratio:.0f} %",
        f"{row.milliseconds:.2f}",
        f"{row.speedup:.2f}x",
    ]
    if with_metric:
        cells += [f"{row.accuracy:.2f}", f"{row.drop:+.2f}"]
    operators = ""
    if row.operators is not None:
        share = "" if row.integer_share is None else f", {100 * row.integer_share:.0f} % of MACs"
        operators = f"{row.integer_operators} of {row.operators}{share}"
    return [
        *cells,
        f"{min(f.sqnr_db for f in row.fidelity):.1f}",
        f"{min(f.cosine for f in row.fidelity):.4f}",
        f"{100 * min(agreements):.2f} %" if agreements else "",
        operators,
        "" if row.batch_dependence is None else f"{row.batch_dependence:.2g}",
    ]


def _output_cells(fidelity: OutputFidelity, width: int) -> list[str]:
    """A line for one of several outputs; the model's own line shows the worst of them."""
    same = "" if fidelity.agreement is None else f"{100 * fidelity.agreement:.2f} %"
    shown = [f"{fidelity.sqnr_db:.1f}", f"{fidelity.cosine:.4f}", same, "", ""]
    return [f"  {fidelity.output}", *[""] * (width - 1 - len(shown)), *shown]
