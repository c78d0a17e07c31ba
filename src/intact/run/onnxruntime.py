"""ONNX Runtime: running a file, and reading what it made of it."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from intact.core.errors import ModelFileError

__all__ = ["INTEGER_OPERATORS", "Session", "optimized"]

Feeds = Mapping[str, NDArray[Any]]

# The operators of ONNX Runtime's optimized graph that multiply integers.
INTEGER_OPERATORS = frozenset(
    {
        "ConvInteger", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul", "MatMulInteger",
        "MatMulIntegerToFloat", "QAttention", "QGemm", "QLinearConv", "QLinearMatMul",
    }
)  # fmt: skip


class Session:
    """A file opened by ONNX Runtime on the CPU.

    threads: number of threads of one operator, None for all cores. spin: whether they wait for
        work without sleeping.
    Raises ModelFileError if ONNX Runtime refuses the model.
    """

    def __init__(self, content: bytes, threads: int | None = None, spin: bool = True) -> None:
        options = _options(threads)
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise ModelFileError(_refusal(error)) from None
        self._outputs = [value.name for value in self._session.get_outputs()]
        self.inputs = [value.name for value in self._session.get_inputs()]

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs (all, or those named) for the inputs `feeds`."""
        results: list[NDArray[Any]] = self._session.run(
            self._outputs if outputs is None else list(outputs), dict(feeds)
        )
        return results


def optimized(content: bytes, threads: int | None = None) -> onnx.GraphProto:
    """ONNX Runtime's own optimized graph of a model: what it really runs."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        options = _options(threads)
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # see Session
            raise ModelFileError(_refusal(error)) from None
        return onnx.load(path).graph


def _options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its warnings are about graphs, which users didn't write
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _refusal(error: Exception) -> str:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"ONNX Runtime cannot run the model: {reason}; check that the file is whole"
