"""Which runtime runs a model: the native engine where it can, else ONNX Runtime."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final, Literal, get_args

import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.errors import InputError, RuntimeUnavailable
from intact.run.native import NativeSession
from intact.run.onnxruntime import Session

__all__ = ["RUNTIMES", "Runtime", "SelectedSession"]

Runtime = Literal["auto", "native", "onnxruntime"]
RUNTIMES: Final[tuple[Runtime, ...]] = get_args(Runtime)


class SelectedSession:
    """A model opened by the runtime that was asked for.

    graph, content: of the same file. The graph is changed.

    runtime: "native" or "onnxruntime"; "auto" takes the first where it runs the model and the
        second elsewhere. Raises RuntimeUnavailable if "native" cannot run the model,
        ModelFileError if ONNX Runtime refuses it, and InputError for another name.
    """

    def __init__(
        self, graph: ir.Model, content: bytes, threads: int | None, runtime: Runtime
    ) -> None:
        if runtime not in RUNTIMES:
            raise InputError(f"runtime '{runtime}' is unknown; choose from {', '.join(RUNTIMES)}")
        self._content, self._threads = content, threads
        self._asked = runtime
        self.native: NativeSession | None = None
        self.refusal = ""  # why the native engine does not run the model
        if runtime != "onnxruntime":
            try:
                self.native = NativeSession(graph, threads)
            except RuntimeUnavailable as error:
                self._refuse(error)
        if self.native is None:
            _ = self._fallback

    @cached_property
    def _fallback(self) -> Session:
        return Session(self._content, self._threads)

    def _refuse(self, error: RuntimeUnavailable) -> None:
        if self._asked == "native":
            raise error
        self.native, self.refusal = None, str(error)

    @property
    def runtime(self) -> str:
        """The runtime in use."""
        return "onnxruntime" if self.native is None else "native"

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names of the operators that ran in ONNX Runtime though the engine runs the model."""
        return () if self.native is None else self.native.elsewhere

    def settle(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Find out, by compiling for inputs like these, which runtime it is going to be."""
        native = self.native
        if native is not None:
            try:
                native.executable(feeds)
            except RuntimeUnavailable as error:
                self._refuse(error)
                _ = self._fallback

    def run(
        self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str] | None = None
    ) -> list[NDArray[Any]]:
        """The outputs (all, or those named) for the inputs `feeds`."""
        native = self.native  # another caller may leave it meanwhile
        if native is not None:
            try:
                return native.run(feeds, outputs)
            except RuntimeUnavailable as error:
                if self._asked == "native":
                    raise
                # Where the inputs are at fault, ONNX Runtime fails too, and all stays as it is.
                results = self._fallback.run(feeds, outputs)
                self._refuse(error)
                return results
        return self._fallback.run(feeds, outputs)
