"""A quantized ONNX model as programs of the native engine, one for each set of input shapes."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.errors import RuntimeUnavailable
from intact.core.native import native
from intact.engine.assemble import Weights, assemble
from intact.engine.fuse import fuse
from intact.engine.lower import lower
from intact.engine.memory import place
from intact.engine.values import Instruction, Storage, Tensor, Unsupported

__all__ = ["Executable", "Model"]

_KEPT: Final = 16  # programs of different input shapes that are kept


@dataclass(frozen=True)
class Executable:
    """The program for inputs of known shapes.

    instructions: what it does, for people. arena: bytes that it works in.
    """

    program: Any
    instructions: list[Instruction]
    outputs: list[Tensor]
    arena: int


class Model:
    """A model that the engine runs.

    threads: number of threads. isa: the instruction set, "" for the best that the CPU has.
    Raises RuntimeUnavailable, naming the operator, if the engine cannot run it.
    """

    def __init__(self, proto: onnx.ModelProto, threads: int, isa: str = "") -> None:
        if native is None:
            raise RuntimeUnavailable(
                "intact's native engine is not built here; install intact where a C++20 compiler "
                'is found, or use runtime="onnxruntime"'
            )
        self._graph = ir.from_proto(proto).graph
        try:
            self.engine = native.Engine.create(threads, isa)
        except ValueError as error:
            raise RuntimeUnavailable(f"{error}; choose one of these with INTACT_ISA") from None
        self._weights = Weights(self.engine)
        self._programs: OrderedDict[tuple[tuple[int, ...], ...], Executable] = OrderedDict()
        self._inputs = [value for value in self._graph.inputs]
        self.input_names = [str(value.name) for value in self._inputs]
        self.output_names = [str(value.name) for value in self._graph.outputs]

    def executable(self, shapes: tuple[tuple[int, ...], ...]) -> Executable:
        """The program for inputs of these shapes. Raises RuntimeUnavailable."""
        found = self._programs.get(shapes)
        if found is None:
            found = self._compile(shapes)
            self._programs[shapes] = found
            if len(self._programs) > _KEPT:
                self._programs.popitem(last=False)
        else:
            self._programs.move_to_end(shapes)
        return found

    def _compile(self, shapes: tuple[tuple[int, ...], ...]) -> Executable:
        inputs = {}
        try:
            for i, (value, shape) in enumerate(zip(self._inputs, shapes, strict=True)):
                if value.dtype != ir.DataType.FLOAT:
                    raise Unsupported(f"input '{value.name}' is not float32")
                if 0 in shape:
                    raise Unsupported(f"input '{value.name}' is empty")
                storage = Storage(int(np.prod(shape)) * 4, ("input", i))
                inputs[str(value.name)] = Tensor(storage, shape, "float32")
            instructions, outputs = lower(self._graph, inputs)
            instructions = fuse(instructions, outputs)
            arena = place(instructions, outputs)
            program = assemble(
                instructions, self.engine, arena, list(inputs.values()), outputs, self._weights
            )
        except (Unsupported, ValueError) as error:
            raise RuntimeUnavailable(
                f"intact's native engine cannot run this model: {error}; use "
                'runtime="onnxruntime"'
            ) from None
        return Executable(program, instructions, outputs, arena)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs for the inputs `feeds`."""
        arrays = [np.ascontiguousarray(feeds[name]) for name in self.input_names]
        found = self.executable(tuple(array.shape for array in arrays))
        outputs = [np.empty(tensor.shape, tensor.dtype) for tensor in found.outputs]
        found.program.run(arrays, outputs)
        return outputs
