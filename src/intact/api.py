"""What users call: each function is the rooms of DESIGN's picture in order."""

import inspect as inspect_module
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import onnx
import onnx_ir as ir

from intact.calibrate.prepared import Prepared
from intact.capture.onnx import capture as capture_onnx
from intact.capture.signature import Signature
from intact.choose.default import candidates, choose
from intact.choose.options import Options, Override, Selector, as_override
from intact.core.errors import CalibrationError, InputError, ModelFileError
from intact.core.plan import Mode, Plan
from intact.core.ranges import Method
from intact.core.statistics import Statistics
from intact.emit import Target, emit
from intact.evaluate.compare import Comparison
from intact.evaluate.compare import compare as compare_models
from intact.evaluate.inspect import inspect
from intact.graph.prepare import prepare as prepare_graph
from intact.run.model import FloatModel, QuantizedModel
from intact.run.select import Runtime
from intact.version import __version__

__all__ = ["compare", "convert", "inspect", "load", "plan", "prepare", "quantize"]

Axes = Mapping[str, Mapping[int, str]]
Overrides = Mapping[Selector, Mode | Override]

_ONNX = (str, Path, onnx.ModelProto, ir.Model)

# ONNX files are protobuf messages, which cannot be larger.
_LARGEST_FILE = 2**31 - 1


def quantize(
    model: Any,
    example_inputs: Any = None,
    *,
    mode: Literal["static", "dynamic"] = "static",
    calibration: Iterable[Any] | None = None,
    dynamic_axes: Axes | None = None,
    method: Method = "mse",
    activations: Literal["uint8", "int8"] = "uint8",
    include: Collection[Selector] | None = None,
    exclude: Collection[Selector] = (),
    overrides: Overrides | None = None,
    target: Target = "portable",
    mask: str | Literal["auto"] | None = "auto",
    max_samples: int | None = None,
    plan: Plan | None = None,
    threads: int | None = None,
    runtime: Runtime = "auto",
    progress: Callable[[int], None] | None = None,
) -> QuantizedModel:
    """An int8 model from a trained float model.

    model: a torch.nn.Module, the path of an ONNX file, or an onnx.ModelProto.
    example_inputs: what a torch model is called with once: a tensor, a tuple of positional
        arguments, or a mapping of keyword arguments. An ONNX model needs none.
    mode: "static" fixes the scale and zero point of every activation from `calibration`;
        "dynamic" computes them at run time and needs no data.
    calibration: batches of representative inputs (a data loader, a list): each a tensor, a tuple
        whose extra items such as labels are dropped, or a mapping by input name.
    dynamic_axes: input name -> {axis: name} of axes besides the batch whose size may vary.
    method: how a static range is chosen: "mse", "minmax", "percentile" or "entropy".
    activations: "uint8" (asymmetric) or "int8" (symmetric).
    include, exclude, overrides: which operators, and how; see `choose.options.Options`.
    target: "portable", "onnxruntime" or "onnxruntime-no-vnni"; see `emit.emit`.
    mask: the input (N, positions) that is 0 at padding, which calibration leaves out; "auto" takes
        an input called "attention_mask".
    max_samples: use at most about this many samples of `calibration`.
    plan: carry out this plan instead of choosing one.
    threads: threads for calibration and for the result, None for all cores.
    runtime: what runs the result: "native" is intact's own engine, "onnxruntime" that; "auto"
        takes the engine where it can run the model.
    progress: called with the number of calibration samples done.

    Raises an IntactError that names the thing, the fault and the cure.
    """
    options = Options(mode, method, activations, include, exclude, overrides or {})
    if mode == "static" and plan is None and calibration is None:
        raise CalibrationError(
            'static quantization needs calibration data; give calibration=, or mode="dynamic"'
        )
    prepared = prepare(model, example_inputs, dynamic_axes=dynamic_axes, mask=mask, threads=threads)
    if mode == "static" and plan is None and calibration is not None:
        prepared.calibrate(calibration, max_samples, progress)
        found = prepared.adequacy(method)
        if found.unstable:
            warnings.warn(str(found), stacklevel=2)
    return _convert(prepared, options, None, plan, target, threads, runtime)


def prepare(
    model: Any,
    example_inputs: Any = None,
    *,
    dynamic_axes: Axes | None = None,
    mask: str | Literal["auto"] | None = "auto",
    threads: int | None = None,
) -> Prepared:
    """A model that observes its activations when it is called; see `quantize` for arguments."""
    graph, signature = _capture(model, example_inputs, dynamic_axes)
    graph = prepare_graph(graph)
    return Prepared(graph, signature, candidates(graph.graph).observed, mask, threads)


def convert(
    prepared: Prepared,
    *,
    mode: Literal["static", "dynamic"] = "static",
    statistics: Statistics | None = None,
    method: Method = "mse",
    activations: Literal["uint8", "int8"] = "uint8",
    include: Collection[Selector] | None = None,
    exclude: Collection[Selector] = (),
    overrides: Overrides | None = None,
    target: Target = "portable",
    plan: Plan | None = None,
    threads: int | None = None,
    runtime: Runtime = "auto",
) -> QuantizedModel:
    """The int8 model of a prepared model; see `quantize` for arguments.

    statistics: use these (for example merged from several machines) instead of what `prepared`
        has observed. Raises CalibrationError if a static plan is wanted and nothing was observed.
    """
    options = Options(mode, method, activations, include, exclude, overrides or {})
    return _convert(prepared, options, statistics, plan, target, threads, runtime)


def plan(
    prepared: Prepared,
    *,
    mode: Literal["static", "dynamic"] = "static",
    statistics: Statistics | None = None,
    method: Method = "mse",
    activations: Literal["uint8", "int8"] = "uint8",
    include: Collection[Selector] | None = None,
    exclude: Collection[Selector] = (),
    overrides: Overrides | None = None,
) -> Plan:
    """What `convert` with these arguments would do, to be printed, saved, edited and given back.

    See `quantize` and `convert` for arguments and errors.
    """
    options = Options(mode, method, activations, include, exclude, overrides or {})
    return _plan(prepared, options, statistics)


def _plan(prepared: Prepared, options: Options, statistics: Statistics | None) -> Plan:
    needs_data = options.mode == "static" or any(
        as_override(asked).mode == "static" for asked in options.overrides.values()
    )
    if statistics is not None:
        # Merging with nothing checks that they belong to this model.
        statistics = Statistics.empty(prepared.model_id, prepared.observed).merge(statistics)
    elif needs_data:
        statistics = prepared.statistics
    if statistics is not None and statistics.samples == 0 and needs_data:
        raise CalibrationError(
            "nothing has been observed; call the prepared model on representative data first, "
            'or convert with mode="dynamic"'
        )
    return choose(prepared.graph.graph, options, statistics)


def _convert(
    prepared: Prepared,
    options: Options,
    statistics: Statistics | None,
    plan: Plan | None,
    target: Target,
    threads: int | None,
    runtime: Runtime,
) -> QuantizedModel:
    if plan is None:
        plan = _plan(prepared, options, statistics)
    quantized = emit(prepared.graph, plan, target)
    content = _serialize(quantized, prepared.graph, prepared.signature)
    return QuantizedModel(content, threads, runtime)


def _serialize(quantized: ir.Model, graph: ir.Model, signature: Signature) -> bytes:
    weights = (value.const_value for value in graph.graph.initializers.values())
    float_bytes = sum(weight.nbytes for weight in weights if weight is not None)
    quantized.metadata_props["intact.version"] = __version__
    quantized.metadata_props["intact.signature"] = signature.to_json()
    quantized.metadata_props["intact.float_bytes"] = str(float_bytes)
    proto = ir.to_proto(quantized)
    if proto.ByteSize() > _LARGEST_FILE:
        raise ModelFileError(
            f"the quantized model has {proto.ByteSize():,} bytes, more than one ONNX file holds "
            "(2 GiB); quantize a smaller model"
        )
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def load(path: str | Path, threads: int | None = None, runtime: Runtime = "auto") -> QuantizedModel:
    """A quantized model from a file that `QuantizedModel.save` wrote, or any ONNX file.

    runtime: see `quantize`. Raises ModelFileError if it is not one, and RuntimeUnavailable if the
    runtime that is asked for cannot run it. Nothing is ever unpickled.
    """
    return QuantizedModel.load(path, threads, runtime)


def compare(
    model: Any,
    candidates: Mapping[str, QuantizedModel | str | Path],
    data: Iterable[Any],
    *,
    example_inputs: Any = None,
    dynamic_axes: Axes | None = None,
    metric: Callable[[Callable[..., Any]], float] | Literal["top1"] | None = None,
    repetitions: int = 50,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Accuracy, fidelity, latency and size of quantized models beside the float model.

    model: as in `quantize`; a torch model is captured with `example_inputs`, or else with the
        first batch of `data`.
    candidates: name -> quantized model, or the path of one.
    data: batches as in `quantize`'s calibration, of data that calibration did not use.
    metric: "top1" for batches of (input, label), or a function that takes a model (called as the
        user's own) and returns a number, higher is better.
    repetitions: runs per model for the latency, interleaved.
    """
    batches = iter(data)
    first = next(batches, None)
    if first is None:
        raise InputError("the comparison's data is empty; give at least one batch")
    if example_inputs is None and not isinstance(model, _ONNX):
        example_inputs = _example(model, first)
    graph, signature = _capture(model, example_inputs, dynamic_axes)
    loaded = {
        name: given if isinstance(given, QuantizedModel) else load(given, threads)
        for name, given in candidates.items()
    }
    return compare_models(
        FloatModel(graph, signature, threads),
        loaded,
        chain([first], batches),
        metric=metric,
        repetitions=repetitions,
        progress=progress,
    )


def _capture(
    model: Any, example_inputs: Any, dynamic_axes: Axes | None
) -> tuple[ir.Model, Signature]:
    """The graph of a torch or ONNX model, and how it is called."""
    if isinstance(model, _ONNX):
        return capture_onnx(model, dynamic_axes)
    if not any(base.__module__.startswith("torch.") for base in type(model).__mro__):
        raise InputError(
            f"the model is a {type(model).__name__}; give a torch.nn.Module, the path of an ONNX "
            "file or an onnx.ModelProto"
        )
    from intact.capture.torch import capture as capture_torch

    if example_inputs is None:
        raise InputError(
            "a torch model needs example_inputs: a tensor, a tuple of arguments, or a mapping of "
            "keyword arguments"
        )
    return capture_torch(model, example_inputs, dynamic_axes)


def _example(model: Any, batch: Any) -> Any:
    """Example inputs from a batch of data: what forward() takes of it, without labels."""
    if isinstance(batch, (tuple, list)):
        parameters = inspect_module.signature(model.forward).parameters.values()
        taken = sum(p.default is p.empty and p.kind is not p.VAR_KEYWORD for p in parameters)
        return tuple(batch[: max(taken, 1)])
    if isinstance(batch, Mapping):
        return {key: value for key, value in batch.items() if key not in ("label", "labels")}
    return batch
