"""intact's own engine: running a file, and reading what it made of it."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.errors import IntactError, RuntimeUnavailable
from intact.core.machine import cores
from intact.engine.compile import Executable, Model
from intact.engine.program import PACKED_AS
from intact.run.onnxruntime import Session

__all__ = ["NativeSession"]

Feeds = Mapping[str, NDArray[Any]]

# Instructions that multiply integers.
_INTEGER = frozenset({"convolution", "depthwise", "real_convolution", "real_depthwise"})


class NativeSession:
    """A model opened by the native engine.

    graph: is changed; weights are read from it whenever a program is compiled.
    threads: number of threads, None for all cores. The environment variable INTACT_ISA names an
    instruction set to use instead of the best; `intact --version` lists them.
    Raises RuntimeUnavailable, naming the operator, if the engine cannot run the model; `run` may
    raise it too, for inputs of shapes that were not met before.
    """

    def __init__(self, graph: ir.Model, threads: int | None = None) -> None:
        count = threads or cores()

        def open_session(content: bytes) -> _Elsewhere:
            return _Elsewhere(content, count)

        self._model = Model(graph, count, open_session, os.environ.get("INTACT_ISA", ""))
        self._outputs = [str(value.name) for value in graph.graph.outputs]

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Names of the operators that ONNX Runtime ran for the latest inputs."""
        return self._model.elsewhere

    @property
    def isa(self) -> str:
        """The instruction set in use."""
        return str(self._model.engine.isa)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> list[NDArray[Any]]:
        """The outputs (all, or those named) for the inputs `feeds`."""
        results = self._model.run(feeds)
        if outputs is None:
            return results
        return [results[self._outputs.index(name)] for name in outputs]

    def executable(self, feeds: Feeds) -> Executable:
        """The program for inputs of these shapes."""
        return self._model.executable(feeds)

    def profile(self, feeds: Feeds, repetitions: int) -> list[tuple[str, float]]:
        """Each operator of the program and the least seconds that it took, in order."""
        return self._model.profile(feeds, repetitions)

    def products(self, feeds: Feeds) -> dict[str, tuple[str, bool]]:
        """Name of a stored weight -> the instruction that reads it, and whether that is int8."""
        return {
            str(instruction.parameters["name"]).split(PACKED_AS)[0]: (
                instruction.kind,
                instruction.kind in _INTEGER,
            )
            for instruction in self.executable(feeds).instructions
            if "name" in instruction.parameters
        }


class _Elsewhere:
    """ONNX Runtime, for what the engine does not know."""

    def __init__(self, content: bytes, threads: int) -> None:
        try:
            # Its threads must not wait for work while the engine's are at it.
            self._session = Session(content, threads, spin=False)
        except IntactError as error:
            raise _unable(error) from None

    def __call__(self, feeds: Feeds) -> list[NDArray[Any]]:
        wanted = self._session.inputs
        try:
            return self._session.run({name: feeds[name] for name in wanted})
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise _unable(error) from None


def _unable(error: Exception) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        f"the part of the model that the engine does not know fails in ONNX Runtime: {error}; "
        "check the inputs, and that the file is whole"
    )
