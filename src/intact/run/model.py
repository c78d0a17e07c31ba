"""Models that can be called: the bytes of an ONNX file, a session, and how the user calls it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from intact.capture.file import read_model
from intact.capture.onnx import read_content, signature_of
from intact.capture.signature import Outputs, Signature
from intact.core.errors import ModelFileError
from intact.core.files import write_atomically
from intact.run.onnxruntime import Session
from intact.run.select import Runtime, SelectedSession

__all__ = ["FloatModel", "OnnxModel", "QuantizedModel"]


class OnnxModel(ABC):
    """An ONNX model that is called as the user's own is: torch in, torch out; numpy in, numpy out.

    content: the bytes of the ONNX file. threads: of one operator, None for all cores.
    The session is opened at the first call.
    """

    @property
    @abstractmethod
    def session(self) -> Session | SelectedSession:
        """The open session."""

    def __init__(self, content: bytes, signature: Signature, threads: int | None = None) -> None:
        self.content = content
        self.signature = signature
        self.threads = threads

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self.content)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The ONNX model's outputs for its inputs by name."""
        return self.session.run(feeds)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, for the arguments that the user's own model takes.

        Raises InputError, naming the input, where they do not fit.
        """
        result = self.signature.restore(self.run(self.signature.bind(*args, **kwargs)))
        return _to_torch(result) if _holds_torch((args, kwargs)) else result


class FloatModel(OnnxModel):
    """The float graph that a quantized model is compared with."""

    def __init__(self, graph: ir.Model, signature: Signature, threads: int | None = None) -> None:
        super().__init__(ir.to_proto(graph).SerializeToString(), signature, threads)

    @cached_property
    def session(self) -> Session:
        """The open session of ONNX Runtime."""
        return Session(self.content, self.threads)


class QuantizedModel(OnnxModel):
    """An int8 model: one ONNX file that runs in any ONNX runtime.

    decisions: operator name -> what became of it ("mode", "op_type", "reason", and the names of
        its quantized "weights" and "activations"); empty for a file that intact did not write.
    target: the target that it was emitted for, "" if intact did not write it.
    runtime: what runs it; see `run.select`.
    """

    def __init__(
        self, content: bytes, threads: int | None = None, runtime: Runtime = "auto"
    ) -> None:
        try:
            graph = read_model(content)
        except Exception as error:  # protobuf's and onnx_ir's errors share no base
            raise ModelFileError(f"the content is not an ONNX file: {error}") from None
        metadata = graph.metadata_props
        stored = metadata.get("intact.signature")
        super().__init__(
            content,
            signature_of(graph) if stored is None else Signature.from_json(stored),
            threads,
        )
        self._graph: ir.Model | None = graph  # until the session is opened
        self._asked = runtime
        self.target = metadata.get("intact.target", "")
        self.decisions = _decisions(metadata.get("intact.decisions", "{}"))
        self.float_bytes = _number(metadata.get("intact.float_bytes", "0"))

    @property
    def proto(self) -> onnx.ModelProto:
        """The file, parsed anew each time: it is as large as the file, and changes nothing here."""
        return onnx.load_model_from_string(self.content)

    @cached_property
    def session(self) -> SelectedSession:
        """The open session. Raises RuntimeUnavailable or ModelFileError if there can be none."""
        graph, self._graph = self._graph or read_model(self.content), None
        return SelectedSession(graph, self.content, self.threads, self._asked)

    @property
    def runtime(self) -> str:
        """The runtime that runs the model: "native" or "onnxruntime"."""
        return self.session.runtime

    def save(self, path: str | Path) -> None:
        """Write the ONNX file, whole or not at all. Raises OutputPathError if that fails."""
        write_atomically(Path(path), self.content)

    @staticmethod
    def load(
        path: str | Path, threads: int | None = None, runtime: Runtime = "auto"
    ) -> "QuantizedModel":
        """Read an ONNX file that `save` wrote, or any other.

        Raises ModelFileError if it is missing, damaged, or no runtime can run it, and
        RuntimeUnavailable if the runtime that is asked for cannot.
        """
        try:
            model = QuantizedModel(read_content(path), threads, runtime)
            model.session.settle(model.signature.example())
        except ModelFileError as error:
            label = f"'{path}'"
            message = str(error)
            raise ModelFileError(message if label in message else f"{label}: {message}") from None
        return model

    def __repr__(self) -> str:
        modes = [str(d.get("mode")) for d in self.decisions.values()]
        counts = ", ".join(f"{modes.count(m)} {m}" for m in ("static", "dynamic", "float"))
        part = f", {100 * self.size / self.float_bytes:.0f} % of float" if self.float_bytes else ""
        return f"<QuantizedModel: {counts} operators; {self.size / 1e6:.1f} MB{part}>"


def _decisions(text: str) -> dict[str, dict[str, Any]]:
    try:
        content = json.loads(text)
        if all(isinstance(entry, dict) for entry in content.values()):
            return dict(content)
    except (ValueError, AttributeError, RecursionError):
        pass
    raise ModelFileError("the file's list of decisions is damaged; quantize the model again")


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _holds_torch(value: Any) -> bool:
    """Whether a torch tensor is anywhere in the arguments."""
    if isinstance(value, Mapping):
        return any(_holds_torch(item) for item in value.values())
    if isinstance(value, (tuple, list)):
        return any(_holds_torch(item) for item in value)
    return hasattr(value, "detach") and type(value).__module__.split(".")[0] == "torch"


def _to_torch(value: Any) -> Any:
    """The same nesting with arrays as torch tensors."""
    import torch

    if isinstance(value, Outputs):
        return Outputs({key: _to_torch(item) for key, item in value.items()})
    if isinstance(value, (tuple, list)):
        return type(value)(_to_torch(item) for item in value)
    return torch.from_numpy(value) if hasattr(value, "dtype") else value
