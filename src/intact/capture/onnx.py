"""ONNX files and protos -> Graph and Signature. A file is untrusted input."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import google.protobuf.message
import onnx
import onnx.external_data_helper
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import version_converter

from intact.capture.file import skeleton
from intact.capture.signature import Signature, TensorSpec
from intact.core.errors import CaptureError, InputError, ModelFileError

__all__ = ["OPSET", "capture", "read_content", "read_proto", "signature_of"]

OPSET: Final = 21

_QUANTIZED: Final = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger",
        "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "MatMulNBits",
    }
)  # fmt: skip

Axes = Mapping[str, Mapping[int, str]]


def capture(
    model: str | Path | onnx.ModelProto | ir.Model, dynamic_axes: Axes | None = None
) -> tuple[ir.Model, Signature]:
    """The graph of an ONNX model at opset 21 or later, and how it is called.

    dynamic_axes: input name -> {axis: name} of axes whose size may vary although the file fixes it.
    Raises ModelFileError if the file is missing, truncated, not ONNX, already quantized, or keeps
    weights outside its own directory; CaptureError if an operator's old form cannot be converted.
    """
    if isinstance(model, ir.Model):
        graph = ir.from_proto(ir.to_proto(model))
        label = "the model"
    elif isinstance(model, onnx.ModelProto):
        label = "the model"
        _load_external_data(model, None, label)
        graph = _to_ir(model, label)
    else:
        label = f"'{model}'"
        graph = _to_ir(read_proto(model), label)
    _require_float(graph, label)
    common.RemoveInitializersFromInputsPass()(graph)
    graph = _modernized(graph, label)
    _open_axes(graph, dynamic_axes or {})
    return graph, signature_of(graph)


def read_proto(path: str | Path) -> onnx.ModelProto:
    """Parse an ONNX file, with external data only from the file's own directory.

    Raises ModelFileError if it is missing, truncated, or not ONNX.
    """
    path = Path(path)
    return _whole(_bytes(path), path)


def read_content(path: str | Path) -> bytes:
    """The bytes of an ONNX file; what `read_proto` reads, where weights lie in other files.

    Raises ModelFileError as `read_proto` does.
    """
    path = Path(path)
    content = _bytes(path)
    try:
        proto, _ = skeleton(content)
    except google.protobuf.message.DecodeError:
        raise _damaged(path) from None
    external = onnx.TensorProto.EXTERNAL
    if any(tensor.data_location == external for tensor in _tensors(proto.graph)):
        return bytes(_whole(content, path).SerializeToString())
    _require_graph(proto, path)
    return content


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelFileError(f"'{path}' does not exist; give the path of an ONNX file") from None
    except OSError as error:
        raise ModelFileError(f"'{path}' cannot be read: {error.strerror or error}") from None


def _whole(content: bytes, path: Path) -> onnx.ModelProto:
    """The parsed file, with all its weights."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(content)
    except google.protobuf.message.DecodeError:
        raise _damaged(path) from None
    _require_graph(proto, path)
    _load_external_data(proto, path.parent, f"'{path}'")
    return proto


def _damaged(path: Path) -> ModelFileError:
    return ModelFileError(f"'{path}' is truncated or not an ONNX file; export or download it again")


def _require_graph(proto: onnx.ModelProto, path: Path) -> None:
    if not proto.graph.node and not proto.graph.output:
        raise ModelFileError(f"'{path}' is not an ONNX model: it has no graph")


def signature_of(graph: ir.Model) -> Signature:
    """The signature of an ONNX model, whose parameters are its inputs."""
    inputs = [_spec(value) for value in graph.graph.inputs]
    return Signature.of_names(inputs, [_spec(value) for value in graph.graph.outputs])


def _spec(value: ir.Value) -> TensorSpec:
    shape = value.shape
    dims = None if shape is None else tuple(d if isinstance(d, int) else d.value for d in shape)
    dtype = "float32" if value.dtype is None else value.dtype.numpy().name
    return TensorSpec(str(value.name), dtype, dims)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors of a graph, those of subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (attribute.g, *attribute.graphs):
                yield from _tensors(inner)


def _load_external_data(proto: onnx.ModelProto, folder: Path | None, label: str) -> None:
    """Read weights that lie in files of their own, from nowhere but `folder`."""
    for tensor in _tensors(proto.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        if folder is None:
            raise ModelFileError(
                f"{label} keeps weight '{tensor.name}' in another file ('{location}'); give the "
                "path of the ONNX file instead of a proto"
            )
        target = (folder / location).resolve()
        if not location or not target.is_relative_to(folder.resolve()):
            raise ModelFileError(
                f"{label} keeps weight '{tensor.name}' in '{location}', outside its own "
                "directory; such a file is not read. Export it again with its weights beside it"
            )
        try:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelFileError(
                f"{label} keeps weight '{tensor.name}' in '{location}', which cannot be read: "
                f"{error}; put that file beside it"
            ) from None
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _to_ir(proto: onnx.ModelProto, label: str) -> ir.Model:
    try:
        onnx.checker.check_model(proto)
        return ir.from_proto(proto)
    except onnx.checker.ValidationError as error:
        if "No Op registered" in str(error) or "No opset import" in str(error):
            with contextlib.suppress(Exception):
                return ir.from_proto(proto)  # operators of other domains are a runtime's matter
        first = str(error).strip().splitlines()[0]
        raise ModelFileError(f"{label} is not a valid ONNX model: {first}") from None
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError) as error:
        raise ModelFileError(f"{label} is not a valid ONNX model: {error}") from None


def _require_float(graph: ir.Model, label: str) -> None:
    for node in graph.graph.all_nodes():
        if node.op_type in _QUANTIZED or node.domain == "intact":
            raise ModelFileError(
                f"{label} is already quantized: node '{node.name}' is a {node.op_type}; give the "
                "float model that it was made from"
            )


def _modernized(graph: ir.Model, label: str) -> ir.Model:
    """The model at opset 21, or its own if that is later."""
    version = graph.opset_imports.get("", OPSET)
    if version >= OPSET:
        return graph
    notes = logging.getLogger("onnxscript")
    level = notes.level
    notes.setLevel(logging.ERROR)  # that it falls back to another converter is no news to a user
    try:
        version_converter.convert_version(graph, OPSET, fallback=True)
    except Exception as error:  # the converter's own error types are not documented
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise CaptureError(
            f"{label} uses opset {version} and cannot be converted to {OPSET}: {reason}; export it "
            f"again at opset {OPSET}"
        ) from None
    finally:
        notes.setLevel(level)
    if graph.opset_imports.get("", 0) < OPSET:
        raise CaptureError(
            f"{label} uses opset {version}, and an operator of it has no form at opset {OPSET}; "
            f"export it again at opset {OPSET}"
        )
    return graph


def _open_axes(graph: ir.Model, dynamic_axes: Axes) -> None:
    """Give names to axes that the file fixes; stored shapes that depended on them are forgotten."""
    inputs = {value.name: value for value in graph.graph.inputs}
    for name, axes in dynamic_axes.items():
        value = inputs.get(name)
        if value is None or value.shape is None:
            raise InputError(
                f"dynamic_axes names input '{name}', which the model does not have; its inputs "
                f"are {', '.join(map(str, inputs))}"
            )
        dims: list[int | ir.SymbolicDim] = list(value.shape)
        for axis, label in axes.items():
            if not -len(dims) <= axis < len(dims):
                raise InputError(f"input '{name}' has {len(dims)} axes, so it has no axis {axis}")
            dims[axis] = ir.SymbolicDim(label)
        value.shape = ir.Shape(dims)
    if dynamic_axes:
        for node in graph.graph:
            for output in node.outputs:
                output.shape = None
        common.ShapeInferencePass()(graph)
