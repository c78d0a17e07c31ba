"""How the user calls the model: names, order, nesting, dtypes and dynamic axes.

A signature turns the user's call into the ONNX model's inputs and its outputs back into the
user's nesting. It is stored in the quantized file as JSON, so a loaded model is called as the
original was.

A *tree* is JSON: `{"leaf": x}`, `{"tuple": [...]}`, `{"list": [...]}`, `{"dict": {...}}`,
`{"constant": scalar}`; leaves are input names on the way in and output indices on the way out.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from intact.core.errors import InputError, ModelFileError

__all__ = ["Outputs", "Signature", "TensorSpec", "leaves"]

Array = NDArray[Any]
Dim = int | str | None
Tree = dict[str, Any]

_LABELS = frozenset({"label", "labels", "target", "targets"})


@dataclass(frozen=True)
class TensorSpec:
    """Name, numpy dtype and shape of an input or output; a string is a dynamic axis' name."""

    name: str
    dtype: str
    shape: tuple[Dim, ...] | None

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The shape; empty where it is unknown."""
        return self.shape or ()

    def __str__(self) -> str:
        if self.shape is None:
            return f"{self.dtype} of any shape"
        dims = ", ".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.dtype} ({dims}{',' if len(self.shape) == 1 else ''})"


class Outputs(dict[str, Any]):
    """Named outputs: `y["logits"]`, `y.logits` and `y[0]` are the same."""

    def __getitem__(self, key: str | int) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no output '{name}'; there are {', '.join(self)}") from None


_FREE_AXIS: Final = 32  # of an axis that varies, in examples


@dataclass(frozen=True)
class Signature:
    """How a model is called.

    inputs, outputs: the ONNX model's, in its order.
    parameters: the user's parameters in positional order -> the tree of what each takes.
    results: the tree of what the user gets.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    parameters: Mapping[str, Tree]
    results: Tree

    @staticmethod
    def of_names(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> "Signature":
        """The signature of an ONNX model: parameters are its inputs; one output comes bare."""
        results: Tree = (
            {"leaf": 0}
            if len(outputs) == 1
            else {"dict": {spec.name: {"leaf": i} for i, spec in enumerate(outputs)}}
        )
        parameters = {spec.name: {"leaf": spec.name} for spec in inputs}
        return Signature(tuple(inputs), tuple(outputs), parameters, results)

    def example(self) -> dict[str, Array]:
        """Inputs of ones: the batch is one, every other axis that varies is 32."""
        shapes = [spec.shape or () for spec in self.inputs]
        batch = next((shape[0] for shape in shapes if shape and isinstance(shape[0], str)), None)
        return {
            spec.name: np.ones(
                [d if isinstance(d, int) else 1 if d == batch else _FREE_AXIS for d in shape],
                spec.dtype,
            )
            for spec, shape in zip(self.inputs, shapes, strict=True)
        }

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """The ONNX inputs of the user's call; tensors and arrays are both accepted.

        Raises InputError, naming the input, for a missing or unknown parameter and for a shape or
        dtype that the model does not take.
        """
        names = list(self.parameters)
        if len(args) > len(names):
            raise InputError(
                f"the model takes {len(names)} inputs ({', '.join(names)}), but {len(args)} were "
                "given"
            )
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.parameters:
                raise InputError(f"the model has no input '{name}'; it takes {', '.join(names)}")
            if name in given:
                raise InputError(f"input '{name}' is given twice, by position and by name")
            given[name] = value
        feeds: dict[str, Array] = {}
        for name, tree in self.parameters.items():
            if name in given:
                _collect(name, tree, given[name], feeds)
        missing = [spec.name for spec in self.inputs if spec.name not in feeds]
        if missing:
            raise InputError(f"input '{missing[0]}' is missing; the model takes {', '.join(names)}")
        typed = {spec.name: _as_dtype(feeds[spec.name], spec) for spec in self.inputs}
        self._check(typed)
        return typed

    def bind_batch(self, batch: Any) -> dict[str, Array]:
        """The ONNX inputs of one item of a data loader.

        A tensor or array is the first argument; a tuple or list is positional, and what follows
        the model's parameters (labels) is dropped; a mapping holds keyword arguments, and its
        labels are dropped unless the model takes them.
        """
        if isinstance(batch, Mapping) or hasattr(batch, "keys"):
            named = {key: batch[key] for key in batch.keys()}  # noqa: SIM118 (not all are Mappings)
            kept = {k: v for k, v in named.items() if k in self.parameters or k not in _LABELS}
            return self.bind(**kept)
        if isinstance(batch, (tuple, list)):
            return self.bind(*batch[: len(self.parameters)])
        return self.bind(batch)

    def restore(self, outputs: Sequence[Any]) -> Any:
        """The ONNX outputs in the user's nesting."""
        return _restore(self.results, outputs)

    def to_json(self) -> str:
        """The signature as JSON text."""
        return json.dumps(
            {
                "inputs": [asdict(spec) for spec in self.inputs],
                "outputs": [asdict(spec) for spec in self.outputs],
                "parameters": dict(self.parameters),
                "results": self.results,
            }
        )

    @staticmethod
    def from_json(text: str) -> "Signature":
        """Read what `to_json` wrote. Raises ModelFileError if it is not that."""
        try:
            content = json.loads(text)
            inputs, outputs = (
                tuple(_spec(entry) for entry in content[part]) for part in ("inputs", "outputs")
            )
            parameters = dict(content["parameters"])
            names = {spec.name for spec in inputs}
            for tree in parameters.values():
                if any(leaf not in names for leaf in leaves(tree)):
                    raise ValueError("a parameter names an unknown input")
            indices = list(leaves(content["results"]))
            if any(not isinstance(i, int) or not 0 <= i < len(outputs) for i in indices):
                raise ValueError("a result names an unknown output")
            return Signature(inputs, outputs, parameters, content["results"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ModelFileError(
                f"the file's signature is damaged ({error}); quantize the model again"
            ) from None

    def _check(self, feeds: Mapping[str, Array]) -> None:
        """Raise InputError unless shapes fit, with one size for each named axis."""
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            array = feeds[spec.name]
            if spec.shape is None:
                continue
            if array.ndim != len(spec.shape):
                batch = array.ndim == len(spec.shape) - 1
                cure = "Add a batch axis" if batch else "Reshape it"
                raise InputError(_mismatch(spec, array, cure))
            for axis, (size, dim) in enumerate(zip(array.shape, spec.shape, strict=True)):
                if isinstance(dim, int) and size != dim:
                    raise InputError(_mismatch(spec, array, f"Make axis {axis} {dim} long"))
                if isinstance(dim, str):
                    known, owner = sizes.setdefault(dim, (size, spec.name))
                    if known != size:
                        raise InputError(
                            f"input '{spec.name}' has {size} along '{dim}' (axis {axis}), but "
                            f"'{owner}' has {known}; make them equal"
                        )


def leaves(tree: Tree) -> Iterator[Any]:
    """The leaves of a tree, left to right."""
    ((kind, content),) = tree.items()
    if kind == "leaf":
        yield content
    elif kind in ("tuple", "list"):
        for branch in content:
            yield from leaves(branch)
    elif kind == "dict":
        for branch in content.values():
            yield from leaves(branch)
    elif kind != "constant":
        raise ValueError(f"a tree has a branch of unknown kind '{kind}'")


def _collect(name: str, tree: Tree, value: Any, feeds: dict[str, Array]) -> None:
    """Put the arrays of one argument into `feeds`."""
    ((kind, content),) = tree.items()
    if kind == "leaf":
        feeds[content] = _array(name, value)
    elif kind in ("tuple", "list"):
        if not isinstance(value, (tuple, list)) or len(value) != len(content):
            raise InputError(f"input '{name}' must be a {kind} of {len(content)}")
        for i, (branch, item) in enumerate(zip(content, value, strict=True)):
            _collect(f"{name}[{i}]", branch, item, feeds)
    elif kind == "dict":
        for key, branch in content.items():
            if key not in value:
                raise InputError(f"input '{name}' has no '{key}'; it takes {', '.join(content)}")
            _collect(f"{name}[{key!r}]", branch, value[key], feeds)
    elif value is not content and value != content:
        raise InputError(
            f"input '{name}' is {value!r}, but the model was captured with {content!r}, which is "
            "fixed in it; capture it again to change that"
        )


def _array(name: str, value: Any) -> Array:
    if hasattr(value, "detach"):  # a torch tensor, without importing torch
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object:
        raise InputError(
            f"input '{name}' is a {type(value).__name__}, not a tensor or an array of numbers"
        )
    return array


def _as_dtype(array: Array, spec: TensorSpec) -> Array:
    """`array` in the input's dtype, where nothing is lost by it."""
    dtype = np.dtype(spec.dtype)
    if array.dtype == dtype:
        return array
    same_kind = array.dtype.kind == dtype.kind or (array.dtype.kind + dtype.kind) in ("iu", "ui")
    if not same_kind or array.dtype.kind == "f":
        raise InputError(
            f"input '{spec.name}' has dtype {array.dtype}; the model takes {spec}. Convert it"
        )
    converted = array.astype(dtype)
    if not np.array_equal(converted, array):
        raise InputError(f"input '{spec.name}' holds values that {dtype} cannot hold; check them")
    return converted


def _mismatch(spec: TensorSpec, array: Array, cure: str) -> str:
    return f"input '{spec.name}' has shape {array.shape}; the model takes {spec}. {cure}"


def _restore(tree: Tree, outputs: Sequence[Any]) -> Any:
    ((kind, content),) = tree.items()
    if kind == "leaf":
        return outputs[content]
    if kind == "tuple":
        return tuple(_restore(branch, outputs) for branch in content)
    if kind == "list":
        return [_restore(branch, outputs) for branch in content]
    if kind == "dict":
        return Outputs({key: _restore(branch, outputs) for key, branch in content.items()})
    return content


def _spec(entry: Mapping[str, Any]) -> TensorSpec:
    shape = entry["shape"]
    if not isinstance(entry["name"], str):
        raise ValueError("a tensor has no name")
    np.dtype(entry["dtype"])  # TypeError if it is none
    if shape is not None and not all(d is None or isinstance(d, (int, str)) for d in shape):
        raise ValueError("a shape holds something other than sizes and names")
    return TensorSpec(entry["name"], entry["dtype"], None if shape is None else tuple(shape))
