"""torch.nn.Module -> Graph and Signature, by torch.export and PyTorch's ONNX exporter.

The user's model is not edited: no stubs, no fusing by hand; its training flags are restored.
"""

import contextlib
import inspect
import io
import json
import logging
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch
from torch.utils import _pytree as pytree

from intact.capture.onnx import OPSET, signature_of
from intact.capture.signature import Signature, Tree
from intact.core.errors import CaptureError, InputError

__all__ = ["capture"]

Axes = Mapping[str, Mapping[int, str]]

BATCH: Final = "batch"
_TORCH: Final = Path(torch.__file__).parent


def capture(
    model: torch.nn.Module, example_inputs: Any, dynamic_axes: Axes | None = None
) -> tuple[ir.Model, Signature]:
    """The graph of a torch model in evaluation mode, and how it is called.

    example_inputs: a tensor, a tuple of positional arguments, or a mapping of keyword arguments.
    dynamic_axes: parameter name -> {axis: name} of axes besides the batch whose size may vary.
        The first axis of every tensor that is as long as the first tensor's is the batch, and
        varies; a model that cannot be exported so keeps the example's batch, with a warning.
    Raises CaptureError, with the line of the user's model at fault, if it cannot be exported.
    """
    arguments = _arguments(model, example_inputs)
    axes = _axes(arguments, dynamic_axes or {})
    arguments = pytree.tree_map_with_path(
        lambda path, x: _widened(x, axes.get(pytree.keystr(path), {})), arguments
    )
    with _evaluating(model), _quiet():
        results = _call(model, arguments)
        graph = _export(model, arguments, axes)
    parameters, names = _parameter_trees(arguments)
    tree, outputs = _result_tree(results)
    _rename(graph, names, outputs)
    _rename_axes(graph, list(axes.values()))
    _check_axes(graph, list(axes.values()))
    _name_nodes(graph, model)
    plain = signature_of(graph)
    return graph, Signature(plain.inputs, plain.outputs, parameters, tree)


def _arguments(model: torch.nn.Module, example: Any) -> dict[str, Any]:
    """Parameter name -> example, in the order of the model's own signature."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example, torch.Tensor):
        args = (example,)
    elif isinstance(example, Mapping) or hasattr(example, "keys"):
        kwargs = {key: example[key] for key in example.keys()}  # noqa: SIM118
    elif isinstance(example, (tuple, list)):
        args = tuple(example)
    else:
        raise InputError(
            f"example_inputs is a {type(example).__name__}; give a tensor, a tuple of arguments, "
            "or a mapping of keyword arguments"
        )
    try:
        bound = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    except TypeError as error:
        raise InputError(f"example_inputs do not fit the model's forward(): {error}") from None
    arguments: dict[str, Any] = {}
    for name, value in bound.items():
        kind = inspect.signature(model.forward).parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments |= value
        else:
            arguments[name] = value
    return arguments


def _axes(arguments: Mapping[str, Any], requested: Axes) -> dict[str, dict[int, str]]:
    """Path of each tensor -> its axes that vary."""
    flat, _ = pytree.tree_flatten_with_path(dict(arguments))
    tensors = [(path, x) for path, x in flat if isinstance(x, torch.Tensor)]
    if not tensors:
        raise InputError("example_inputs hold no tensor; the model needs at least one")
    unknown = set(requested) - set(arguments)
    if unknown:
        raise InputError(
            f"dynamic_axes names '{sorted(unknown)[0]}', which is not among example_inputs: "
            + ", ".join(arguments)
        )
    size = next((x.shape[0] for _, x in tensors if x.ndim), None)
    axes: dict[str, dict[int, str]] = {}
    for path, x in tensors:
        name = str(getattr(path[0], "key", ""))
        named = {0: BATCH} if x.ndim and x.shape[0] == size else {}
        for axis, label in requested.get(name, {}).items():
            if not -x.ndim <= axis < x.ndim:
                raise InputError(
                    f"dynamic_axes names axis {axis} of '{name}', which has {x.ndim} axes"
                )
            named[axis % x.ndim] = label
        axes[pytree.keystr(path)] = named
    return axes


def _widened(x: Any, axes: Mapping[int, str]) -> Any:
    """A copy of an example tensor with at least two entries along every axis that varies.

    torch.export takes a size of 1 for a constant, and two arguments that are one tensor for one.
    """
    if not isinstance(x, torch.Tensor):
        return x
    x = x.detach().clone()
    for axis in axes:
        if x.shape[axis] == 1:
            x = x.repeat_interleave(2, axis)
    return x


def _split(
    model: torch.nn.Module, arguments: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call."""
    kinds = {name: p.kind for name, p in inspect.signature(model.forward).parameters.items()}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name, value in arguments.items():
        if kinds.get(name) is inspect.Parameter.VAR_POSITIONAL:
            args.extend(value)
        elif kinds.get(name) is inspect.Parameter.POSITIONAL_ONLY or (
            inspect.Parameter.VAR_POSITIONAL in kinds.values() and not kwargs and name in kinds
        ):
            args.append(value)
        else:
            kwargs[name] = value
    return tuple(args), kwargs


def _call(model: torch.nn.Module, arguments: Mapping[str, Any]) -> Any:
    """What the model returns for the example."""
    args, kwargs = _split(model, arguments)
    try:
        with torch.no_grad():
            return model(*args, **kwargs)
    except Exception as error:
        raise CaptureError(
            f"the model raises {type(error).__name__} on example_inputs: {error}"
            f"{_user_line(error)}; give inputs that it accepts"
        ) from error


def _export(
    model: torch.nn.Module, arguments: Mapping[str, Any], axes: Mapping[str, Mapping[int, str]]
) -> ir.Model:
    """The exported graph, with a fixed batch if a varying one is impossible."""
    try:
        return _export_once(model, arguments, axes)
    except Exception as error:
        if "data-dependent" in _story(error):
            raise CaptureError(_why(error)) from error
        fixed = {
            path: {axis: name for axis, name in named.items() if name != BATCH}
            for path, named in axes.items()
        }
        try:
            graph = _export_once(model, arguments, fixed)
        except Exception:
            raise CaptureError(_why(error)) from error
    return graph


def _export_once(
    model: torch.nn.Module, arguments: Mapping[str, Any], axes: Mapping[str, Mapping[int, str]]
) -> ir.Model:
    dims: dict[str, Any] = {}

    def shapes(path: Any, x: Any) -> dict[int, Any] | None:
        if not isinstance(x, torch.Tensor):
            return None
        named = axes[pytree.keystr(path)]
        return {
            axis: dims.setdefault(label, torch.export.Dim(label)) for axis, label in named.items()
        }

    args, kwargs = _split(model, arguments)
    program = torch.onnx.export(
        model,
        args,
        kwargs=kwargs,
        dynamo=True,
        opset_version=OPSET,
        dynamic_shapes=pytree.tree_map_with_path(shapes, dict(arguments)),
        external_data=False,
        verbose=False,
    )
    assert program is not None, "the exporter returns a program when it is given no file"
    return program.model


def _story(error: BaseException) -> str:
    """The messages of an error and of all that led to it."""
    messages, link = [], error
    while link is not None:
        messages.append(str(link))
        link = link.__cause__ or link.__context__  # type: ignore[assignment]
    return "\n".join(messages)


def _why(error: BaseException) -> str:
    """What to tell the user about a failed export."""
    cause = error.__cause__ or error
    reason = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    if "data-dependent" in _story(error):
        return (
            "the model's control flow depends on the data, which no exported graph can hold"
            f"{_user_line(error)}; use torch.where or torch.cond there"
        )
    return (
        f"the model cannot be exported: {reason}{_user_line(error)}; torch.export.export(model, "
        "example_inputs) shows the whole story"
    )


def _user_line(error: BaseException) -> str:
    """Where in the user's model an error arose, as ` (file.py, line 3: code)`."""
    link: BaseException | None = error
    while link is not None:
        for frame in reversed(traceback.extract_tb(link.__traceback__)):
            path = Path(frame.filename)
            ours = path == Path(__file__) or "<" in frame.filename
            if not ours and not path.is_relative_to(_TORCH) and path.name != "contextlib.py":
                return f" ({path}, line {frame.lineno}: {frame.line})"
        link = link.__cause__ or link.__context__
    return ""


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode, with every module's own flag restored."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's chatter; intact's own warnings still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            for category in (DeprecationWarning, FutureWarning, UserWarning, SyntaxWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(disabled)


def _parameter_trees(arguments: Mapping[str, Any]) -> tuple[dict[str, Tree], list[str]]:
    """Parameter name -> tree, and the names of the tensors in them, in order."""
    names: list[str] = []

    def tree(value: Any, path: str) -> Tree:
        if isinstance(value, torch.Tensor):
            names.append(path)
            return {"leaf": path}
        if isinstance(value, (tuple, list)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            return {kind: [tree(item, f"{path}_{i}") for i, item in enumerate(value)]}
        if isinstance(value, Mapping):
            return {"dict": {str(k): tree(v, f"{path}_{k}") for k, v in value.items()}}
        return {"constant": _scalar(value, f"input '{path}'")}

    return {name: tree(value, name) for name, value in arguments.items()}, names


def _result_tree(results: Any) -> tuple[Tree, list[str]]:
    """The tree of what the model returns, and a name for each tensor in it."""
    names: list[str] = []

    def tree(value: Any, path: str) -> Tree:
        if isinstance(value, torch.Tensor):
            names.append(path or "output")
            return {"leaf": len(names) - 1}
        if isinstance(value, Mapping):
            joined = {str(k): f"{path}_{k}" if path else str(k) for k in value}
            return {"dict": {k: tree(value[k], p) for k, p in joined.items()}}
        if isinstance(value, (tuple, list)):
            kind = "tuple" if isinstance(value, tuple) else "list"
            stem = path or "output"
            return {kind: [tree(item, f"{stem}_{i}") for i, item in enumerate(value)]}
        return {"constant": _scalar(value, "the model's result")}

    return tree(results, ""), names


def _scalar(value: Any, what: str) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise CaptureError(
        f"{what} holds a {type(value).__name__}; only tensors, tuples, lists, dictionaries and "
        "plain values can be captured. Wrap the model in a module without it"
    )


def _rename(graph: ir.Model, inputs: list[str], outputs: list[str]) -> None:
    """Give the graph's inputs and outputs the user's names."""
    if len(graph.graph.inputs) != len(inputs) or len(graph.graph.outputs) != len(outputs):
        raise CaptureError(
            f"the exported graph has {len(graph.graph.inputs)} inputs and "
            f"{len(graph.graph.outputs)} outputs, but the model takes {len(inputs)} tensors and "
            f"returns {len(outputs)}; return each tensor once"
        )
    wanted = set(inputs) | set(outputs)
    for node in graph.graph:
        for value in node.outputs:
            if value.name in wanted:
                value.name = f"{value.name}_inner"
    for value, name in zip(graph.graph.inputs, inputs, strict=True):
        value.name = name
    for value, name in zip(graph.graph.outputs, outputs, strict=True):
        value.name = name if name not in inputs else f"{name}_output"


def _rename_axes(graph: ir.Model, axes: list[dict[int, str]]) -> None:
    """Give varying axes the names that were asked for, where the exporter kept its own (s77)."""
    renamed: dict[str, str] = {}
    for value, named in zip(graph.graph.inputs, axes, strict=True):
        for axis, label in named.items():
            dim = None if value.shape is None else value.shape[axis]
            if isinstance(dim, ir.SymbolicDim) and dim.value and dim.value != label:
                renamed[dim.value] = label
    if not renamed:
        return
    symbols = re.compile(r"\b(" + "|".join(map(re.escape, renamed)) + r")\b")
    values = [*graph.graph.inputs, *(v for node in graph.graph.all_nodes() for v in node.outputs)]
    for value in values:
        if value.shape is not None:
            value.shape = ir.Shape(
                [
                    ir.SymbolicDim(symbols.sub(lambda m: renamed[m.group()], dim.value))
                    if isinstance(dim, ir.SymbolicDim) and dim.value
                    else dim
                    for dim in value.shape
                ]
            )


def _check_axes(graph: ir.Model, axes: list[dict[int, str]]) -> None:
    """Say which axes the model fixes although they were to vary."""
    for value, named in zip(graph.graph.inputs, axes, strict=True):
        for axis, label in named.items():
            size = None if value.shape is None else value.shape[axis]
            if not isinstance(size, int):
                continue
            if label != BATCH:
                raise CaptureError(
                    f"dynamic_axes asks for axis {axis} of '{value.name}' to vary, but the model "
                    f"fixes it at {size}; leave it out, or mend the model"
                )
            warnings.warn(
                f"the model fixes the batch of '{value.name}' at {size}, that of example_inputs, "
                "so the quantized model takes only that",
                stacklevel=4,
            )


def _name_nodes(graph: ir.Model, model: torch.nn.Module) -> None:
    """Name nodes after the user's modules, and drop the exporter's other notes."""
    classes = {
        path: f"{type(module).__module__}.{type(module).__qualname__}"
        for path, module in model.named_modules()
    }
    taken: set[str] = set()
    for node in graph.graph:
        scopes = _listed(node.metadata_props.get("pkg.torch.onnx.name_scopes"))
        module = _owner(node, classes) or (scopes[-2] if len(scopes) > 1 else "")
        node.metadata_props.clear()
        if module in classes and module:
            node.metadata_props["intact.module"] = module
            node.metadata_props["intact.module_class"] = classes[module]
            stems = (module, f"{module}.{node.op_type.lower()}")
        else:
            stems = (node.op_type.lower(), node.op_type.lower())
        name, i = stems[0], 0
        while name in taken:
            i += 1
            name = stems[1] if i == 1 and stems[1] not in taken else f"{stems[1]}_{i}"
        taken.add(name)
        node.name = name
        for value in node.outputs:
            value.metadata_props.clear()
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()


def _owner(node: ir.Node, classes: Mapping[str, str]) -> str:
    """The module whose weight the node takes: clearer than notes where the exporter fused nodes."""
    for value in node.inputs[1:2]:
        if value is not None and value.is_initializer() and value.name:
            path = value.name.rpartition(".")[0]
            if path in classes:
                return path
    return ""


def _listed(text: str | None) -> list[str]:
    """The exporter's lists of names, which it writes as Python literals."""
    try:
        parsed = json.loads(text.replace("'", '"')) if text else []
    except json.JSONDecodeError:
        return []
    return [str(item) for item in parsed]
