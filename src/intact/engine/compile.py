"""A quantized ONNX model as programs of the native engine, one for each set of input shapes."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import CommonSubexpressionEliminationPass

from intact.core.errors import InputError, RuntimeUnavailable
from intact.core.native import native
from intact.engine.assemble import Weights, assemble
from intact.engine.fuse import fuse
from intact.engine.lowering import lower
from intact.engine.memory import place
from intact.engine.prelude import find_prelude
from intact.engine.program import Instruction, Storage, Tensor, Unsupported
from intact.engine.values import Opaque

__all__ = ["Executable", "Model"]

_Shapes = tuple[tuple[int, ...], ...]

_KEPT: Final = 16  # programs of different input shapes that are kept

Session = Callable[[Mapping[str, NDArray[Any]]], list[NDArray[Any]]]


@dataclass(frozen=True)
class Executable:
    """The program for inputs of known shapes.

    instructions: what it does, for people. arena: bytes that it works in.
    constants: arrays that it reads behind the inputs.
    """

    program: Any
    instructions: list[Instruction]
    outputs: list[Tensor]
    arena: int
    constants: list[NDArray[np.float32]]


class Model:
    """A model that the engine runs.

    threads: number of threads. isa: the instruction set, "" for the best that the CPU has.
    open_session: opens the bytes of an ONNX model in the runtime that computes what comes before
        the engine (see `prelude`); called only where there is such a part.
    Raises RuntimeUnavailable, naming the operator, if the engine cannot run it.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        threads: int,
        open_session: Callable[[bytes], Session],
        isa: str = "",
    ) -> None:
        if native is None:
            raise RuntimeUnavailable(
                "intact's native engine is not built here; install intact where a C++20 compiler "
                'is found, or use runtime="onnxruntime"'
            )
        try:
            self.engine = native.Engine.create(threads, isa)
        except ValueError as error:
            raise RuntimeUnavailable(f"{error}; choose one of these with INTACT_ISA") from None
        if any(t.data_location == t.EXTERNAL for t in proto.graph.initializer):
            raise _refusal("it has weights outside the file")
        try:
            model = ir.from_proto(proto)
            # A mask, for one, is written out again for every layer.
            CommonSubexpressionEliminationPass()(model)
            self._graph = model.graph
            self._prelude = find_prelude(model)
        except Exception as error:  # onnx_ir's own errors about damaged graphs share no base
            raise _refusal(error) from None
        self._before = None
        if self._prelude.model is not None:
            self._before = open_session(ir.to_proto(self._prelude.model).SerializeToString())
        self._lock = threading.Lock()
        self._weights = Weights(self.engine)
        self._programs: OrderedDict[_Shapes, Executable] = OrderedDict()
        self._floats = [v for v in self._graph.inputs if v.dtype == ir.DataType.FLOAT]

    def _arrays(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """What the program reads: the float inputs, and what is computed before it."""
        for value in self._graph.inputs:
            if str(value.name) not in feeds:
                raise InputError(f"input '{value.name}' is missing; give all of the model's inputs")
        arrays = [np.ascontiguousarray(feeds[str(v.name)], np.float32) for v in self._floats]
        if self._before is not None:
            arrays += [np.ascontiguousarray(array) for array in self._before(feeds)]
        return arrays

    def executable(self, feeds: Mapping[str, NDArray[Any]]) -> Executable:
        """The program for inputs of these shapes. Raises RuntimeUnavailable."""
        return self._executable(feeds, self._arrays(feeds))

    def _executable(
        self, feeds: Mapping[str, NDArray[Any]], arrays: list[NDArray[Any]]
    ) -> Executable:
        shapes = tuple(tuple(feeds[str(v.name)].shape) for v in self._graph.inputs)
        key = (*shapes, *(array.shape for array in arrays))
        with self._lock:  # callers of one session may meet a new shape together
            found = self._programs.pop(key, None) or self._compile(shapes, arrays)
            self._programs[key] = found  # the last used comes last
            if len(self._programs) > _KEPT:
                self._programs.popitem(last=False)
        return found

    def _compile(
        self, shapes: tuple[tuple[int, ...], ...], arrays: list[NDArray[Any]]
    ) -> Executable:
        names = [str(v.name) for v in self._floats] + list(self._prelude.outputs)
        tensors = [
            Tensor(Storage(array.nbytes, ("input", i)), array.shape, "float32")
            for i, array in enumerate(arrays)
        ]
        given: dict[str, Tensor | Opaque] = dict(zip(names, tensors, strict=True))
        for value, shape in zip(self._graph.inputs, shapes, strict=True):
            given.setdefault(str(value.name), Opaque(shape))
        try:
            for name, array in zip(names, arrays, strict=True):
                if array.size == 0:
                    raise Unsupported(f"'{name}' is empty")
                if array.dtype != np.float32:
                    raise Unsupported(f"'{name}' is {array.dtype}")
            state, outputs = lower(self._graph, given, self._prelude.nodes)
            instructions = fuse(state.program, outputs, self.engine.threads)
            arena = place(instructions, outputs)
            _check_memory(arena + sum(tensor.storage.bytes for tensor in outputs))
            constants = [tensor for tensor, _ in state.constants]
            program = assemble(
                instructions, self.engine, arena, tensors + constants, outputs, self._weights
            )
        except Exception as error:  # besides our own, onnx_ir's about damaged tensors
            raise _refusal(error) from None
        return Executable(
            program, instructions, outputs, arena, [array for _, array in state.constants]
        )

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for the inputs `feeds`."""
        arrays = self._arrays(feeds)
        found = self._executable(feeds, arrays)
        outputs = [np.empty(tensor.shape, np.float32) for tensor in found.outputs]
        found.program.run(arrays + found.constants, outputs)
        return outputs

    def profile(
        self, feeds: Mapping[str, NDArray[Any]], repetitions: int
    ) -> list[tuple[str, float]]:
        """Each operator of the program and the least seconds that it took, in order."""
        arrays = self._arrays(feeds)
        found = self._executable(feeds, arrays)
        outputs = [np.empty(tensor.shape, np.float32) for tensor in found.outputs]
        seconds = found.program.profile(arrays + found.constants, outputs, repetitions)
        return list(zip(found.program.labels, seconds, strict=True))


def _check_memory(wanted: int) -> None:
    """Sizes come from a file: what cannot fit must not be tried."""
    try:
        most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        most = 2**34
    if wanted > most:
        raise Unsupported(f"it needs {wanted:,} bytes for activations, more than half of memory")


def _refusal(error: Exception | str) -> RuntimeUnavailable:
    return RuntimeUnavailable(
        f'intact\'s native engine cannot run this model: {error}; use runtime="onnxruntime"'
    )
