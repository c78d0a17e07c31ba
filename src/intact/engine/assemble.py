"""From placed instructions to a native program."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from intact.core.native import native
from intact.engine.values import Instruction, Tensor

__all__ = ["Weights", "assemble"]

_SPACES: Final = {"arena": 0, "input": 1, "output": 2}


class Weights:
    """Packed weights by name, shared by the programs of all input shapes."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._packed: dict[str, Any] = {}

    def packed(self, name: str, weights: NDArray[np.int8]) -> Any:
        key = f"{name}/{weights.shape}"
        if key not in self._packed:
            assert native is not None
            self._packed[key] = native.Packed.pack(self._engine, weights)
        return self._packed[key]

    @property
    def bytes(self) -> int:
        return sum(packed.bytes for packed in self._packed.values())


def assemble(
    program: list[Instruction],
    engine: Any,
    arena: int,
    inputs: list[Tensor],
    outputs: list[Tensor],
    weights: Weights,
) -> Any:
    """The native program. Raises ValueError if an instruction does not hold together."""
    assert native is not None
    result = native.Program(
        engine, arena, [t.storage.bytes for t in inputs], [t.storage.bytes for t in outputs]
    )
    for instruction in program:
        _add(result, instruction, weights)
    return result


def _place(tensor: Tensor) -> tuple[int, int, int]:
    assert tensor.storage.place is not None
    space, offset = tensor.storage.place
    return _SPACES[space], offset, tensor.storage.bytes


def _add(program: Any, instruction: Instruction, weights: Weights) -> None:
    arguments = dict(instruction.parameters)
    places = [_place(tensor) for tensor in instruction.inputs]
    match instruction.kind:
        case "add":
            names = ["a", "b"]
        case "gate":
            names = ["a", "gate"]
        case _:
            names = ["x"]
    if instruction.kind in ("convolution", "depthwise"):
        name = arguments.pop("name")
        if instruction.kind == "convolution":
            arguments["weights"] = weights.packed(name, arguments["weights"])
        else:
            arguments["weights"] = arguments["weights"].reshape(-1)
        if arguments["addend"] is not None:
            arguments["addend"] = (places[1], *arguments["addend"])
    arguments |= dict(zip(names, places, strict=False))
    getattr(program, instruction.kind)(
        label=f"{instruction.kind} {instruction.label}", y=_place(instruction.output), **arguments
    )
