"""ONNX files whose weights are read where they lie in the file's bytes: one copy of them.

Parsing a protobuf copies its weights. Here the file is split by the wire format of protocol buffers
(https://protobuf.dev/programming-guides/encoding) into the places of large weights, and all the
rest, which protobuf parses and judges. A file that is written otherwise than usual is parsed whole.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["read_model", "skeleton"]

_LARGE: Final = 4096  # bytes of a weight that stays in the file

# Numbers of fields in ONNX's messages.
_MODEL_GRAPH: Final = 7
_GRAPH_INITIALIZER: Final = 5
_TENSOR_RAW_DATA: Final = 9

_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5

# As they lie in a file, little-endian.
_DTYPES: Final[dict[int, str]] = {
    onnx.TensorProto.FLOAT: "<f4",
    onnx.TensorProto.INT8: "i1",
    onnx.TensorProto.UINT8: "u1",
    onnx.TensorProto.INT32: "<i4",
    onnx.TensorProto.INT64: "<i8",
    onnx.TensorProto.FLOAT16: "<f2",
    onnx.TensorProto.DOUBLE: "<f8",
}

Span = tuple[int, int]  # first byte, and the one behind the last


class _Unusual(Exception):
    """The bytes are no message, or one that is not split here."""


def read_model(content: bytes) -> ir.Model:
    """The graph of an ONNX file; its large weights are views of `content`.

    Raises google.protobuf.message.DecodeError if it is no ONNX file.
    """
    proto, weights = skeleton(content)
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    del proto.graph.value_info[:]  # shapes are of no use here, and take long to read
    model = ir.from_proto(proto)
    for value in (value for node in model.graph for value in node.outputs):
        if value.type is None and types.get(str(value.name)):
            value.type = ir.TensorType(ir.DataType(types[str(value.name)]))
    for name, array in weights.items():
        model.graph.initializers[name].const_value = ir.Tensor(array, name=name)
    return model


def skeleton(content: bytes) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """The file without its large weights, and those as views of `content`, by name.

    Raises google.protobuf.message.DecodeError if it is no ONNX file.
    """
    proto = onnx.ModelProto()
    try:
        pieces, places = _split(memoryview(content))
        proto.ParseFromString(b"".join(pieces))
        stored = [proto.graph.initializer[i] for i in places]
        names = [tensor.name for tensor in proto.graph.initializer]
        if len(set(names)) == len(names):
            views = (_view(content, t, s) for t, s in zip(stored, places.values(), strict=True))
            return proto, {t.name: view for t, view in zip(stored, views, strict=True)}
    except (_Unusual, IndexError):
        pass
    proto.ParseFromString(content)
    return proto, {}


def _view(content: bytes, tensor: onnx.TensorProto, span: Span) -> NDArray[Any]:
    dtype = np.dtype(_DTYPES.get(tensor.data_type, "V"))
    begin, end = span
    dims = tuple(tensor.dims)
    if dtype.itemsize == 0 or min(dims, default=1) < 0:
        raise _Unusual
    if prod(dims) * dtype.itemsize != end - begin or tensor.data_location:
        raise _Unusual
    return np.frombuffer(content, dtype, prod(dims), begin).reshape(dims)


def _split(content: memoryview) -> tuple[list[bytes | memoryview], dict[int, Span]]:
    """Pieces that make up the model without large weights; initializer -> place of its weight."""
    places: dict[int, Span] = {}
    pieces: list[bytes | memoryview] = []
    graphs = 0
    for number, start, begin, end in _fields(content, 0, len(content)):
        if number != _MODEL_GRAPH:
            pieces.append(content[start:end])
            continue
        graphs += 1
        inside: list[bytes | memoryview] = []
        count = 0
        for field, field_start, field_begin, field_end in _fields(content, begin, end):
            if field != _GRAPH_INITIALIZER:
                inside.append(content[field_start:field_end])
                continue
            tensor, span = _without_weight(content, field_begin, field_end)
            if span is not None:
                places[count] = span
            inside += [_tag(_GRAPH_INITIALIZER), _varint(_size(tensor)), *tensor]
            count += 1
        pieces += [_tag(_MODEL_GRAPH), _varint(_size(inside)), *inside]
    if graphs != 1:
        raise _Unusual  # several are merged into one
    return pieces, places


def _without_weight(
    content: memoryview, begin: int, end: int
) -> tuple[list[bytes | memoryview], Span | None]:
    """A tensor without its data, and where that lies, if it is large."""
    pieces: list[bytes | memoryview] = []
    found: Span | None = None
    for number, start, field_begin, field_end in _fields(content, begin, end):
        if number == _TENSOR_RAW_DATA and field_end - field_begin >= _LARGE:
            if found is not None:
                raise _Unusual
            found = field_begin, field_end
        else:
            pieces.append(content[start:field_end])
    return pieces, found


def _fields(content: memoryview, begin: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Number, first byte, first byte of the value and end of each field of a message."""
    at = begin
    while at < end:
        start = at
        tag, at = _read_varint(content, at, end)
        number, kind = tag >> 3, tag & 7
        value = at
        if kind == _VARINT:
            _, at = _read_varint(content, at, end)
        elif kind == _FIXED_64:
            at += 8
        elif kind == _FIXED_32:
            at += 4
        elif kind == _LENGTH:
            length, value = _read_varint(content, at, end)
            at = value + length
        else:
            raise _Unusual
        if at > end or number == 0:
            raise _Unusual
        if kind != _LENGTH and number in (_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA):
            number = -number  # a number that means a message or bytes elsewhere
        yield number, start, value, at


def _read_varint(content: memoryview, at: int, end: int) -> tuple[int, int]:
    result = shift = 0
    while at < end and shift < 64:
        byte = content[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, at
        shift += 7
    raise _Unusual


def _varint(value: int) -> bytes:
    result = bytearray()
    while value >= 0x80:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _tag(number: int) -> bytes:
    return _varint(number << 3 | _LENGTH)


def _size(pieces: list[bytes | memoryview]) -> int:
    return sum(len(piece) for piece in pieces)
