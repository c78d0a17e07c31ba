"""From placed instructions to a native program."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from intact.core.native import native
from intact.engine.program import Instruction, Tensor
from intact.engine.values import Direction, Stored

__all__ = ["Weights", "assemble"]

_SPACES: Final = {"arena": 0, "input": 1, "output": 2, "lines": 3}


class Weights:
    """Packed weights by name, shared by the programs of all input shapes."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._packed: dict[tuple[Any, ...], Any] = {}

    def packed(
        self, name: str, weights: NDArray[np.int8], kernel: tuple[int, ...] = (1,) * 6
    ) -> Any:
        """int8 weights: [groups, K, N]. kernel: its size, strides and dilations."""
        return self._once(
            ("int8", name, weights.shape, kernel),
            lambda n: n.Packed.pack(self._engine, weights, kernel),
        )

    def reals(self, name: str, weights: NDArray[np.float32]) -> Any:
        """float32 weights [groups, K, N]."""
        return self._once(("float32", name, weights.shape), lambda n: n.PackedReals.pack(weights))

    def recurrent(self, d: Direction) -> Any:
        """The state's weights of one direction."""

        def pack(n: Any) -> Any:
            if d.scale is None:
                return n.RecurrentWeights.pack_reals(d.weights, d.bias)
            return n.RecurrentWeights.pack(self._engine, d.weights, d.scale, d.bias)

        return self._once(("recurrent", d.name), pack)

    def _once(self, key: tuple[Any, ...], pack: Callable[[Any], Any]) -> Any:
        if key not in self._packed:
            self._packed[key] = pack(native)
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
    stages: list[str] = []
    for instruction in program:
        try:
            if instruction.chained and not stages:
                result.begin_chain()
            _add(result, instruction, weights)
            if instruction.chained or stages:
                stages.append(instruction.label)
            if stages and not instruction.chained:
                result.end_chain(f"chain {', '.join(stages)}")
                stages = []
        except ValueError as error:
            raise ValueError(f"{instruction.kind} '{instruction.label}': {error}") from None
    return result


def _place(tensor: Tensor) -> tuple[int, int, int]:
    assert tensor.storage.place is not None
    space, offset = tensor.storage.place
    return _SPACES[space], offset, tensor.storage.bytes


def _add(program: Any, instruction: Instruction, weights: Weights) -> None:
    arguments = dict(instruction.parameters)
    places = [_place(tensor) for tensor in instruction.inputs]
    written = [_place(tensor) for tensor in instruction.outputs]
    arguments["label"] = f"{instruction.kind} {instruction.label}"
    arguments["y"] = written[0]
    match instruction.kind:
        case "add":
            arguments |= {"a": places[0], "b": places[1]}
        case "binary":
            arguments |= {"a": places[0], "b": places[1]}
            arguments["extremes"] = _extremes(instruction, written)
        case "gate":
            arguments |= {"a": places[0], "gate": places[1]}
        case "convolution" | "depthwise":
            arguments |= {"x": places[0], "weights": _weights(instruction, arguments, weights)}
            if arguments["addend"] is not None:
                arguments["addend"] = (places[1], *arguments["addend"])
        case "real_convolution" | "real_depthwise":
            rest = iter(places[1:])
            arguments |= {"x": places[0], "weights": _weights(instruction, arguments, weights)}
            arguments["rows"] = (next(rest), next(rest)) if arguments["rows"] else None
            arguments["other"] = next(rest) if arguments["other"] else None
            arguments["extremes"] = _extremes(instruction, written)
            if arguments.get("found"):
                arguments["found"] = (written[1], written[2])
            if arguments.get("of_lines"):
                arguments["of_lines"] = tuple(written[-3:])
        case "float_product":
            packed = weights.reals(arguments.pop("name"), arguments["weights"])
            arguments |= {"x": places[0], "weights": packed}
        case "quantize_rows":
            arguments |= {"x": places[0], "parameters": (written[1], written[2])}
            if arguments["extremes"] is not None:
                arguments["extremes"] = (places[1], arguments["extremes"])
        case "quantize_gated":
            arguments |= dict(zip(("x", "gate", "most", "negatives"), places, strict=True))
            arguments["parameters"] = (written[1], written[2])
        case "layer_norm":
            arguments["x"] = places[0]
            if arguments["quantized"] is not None:
                arguments["quantized"] = (written[1], *arguments["quantized"])
            arguments["found"] = (written[2], written[3]) if len(written) > 2 else None
        case "recurrence":
            del arguments["y"]
            arguments["directions"] = [_direction(d, weights) for d in arguments["directions"]]
        case "attention":
            arguments["mask"] = None
            for key, place in zip(("q", "k", "v", "mask"), places, strict=False):
                arguments[key] = (place, *arguments.pop(f"{key}_view"))
            arguments["y"] = (written[0], *arguments.pop("y_view"))
            arguments["scale"] = arguments.pop("factor")
            if arguments["quantized"] is not None:
                arguments["quantized"] = (written[1], *arguments["quantized"])
        case "elementwise":
            views = zip(places, arguments.pop("x_views"), strict=True)
            arguments["x"] = [(place, *view) for place, view in views]
            arguments["y"] = (written[0], *arguments.pop("y_view"))
            arguments["name"] = arguments.pop("operator")
        case "gather":
            arguments |= {"table": places[0], "indices": places[1], "name": instruction.label}
            arguments["scales"] = places[2] if arguments["scales"] else None
        case _:
            arguments["x"] = places[0]
    getattr(program, instruction.kind)(**arguments)


def _direction(d: Direction, weights: Weights) -> tuple[Any, ...]:
    """Weights; from_x, h0, c0; y, h, c; whether it runs backwards."""

    def strided(x: Stored) -> tuple[Any, ...]:
        return (_place(x.tensor), x.offset, x.strides)

    def three(views: tuple[Stored, ...]) -> tuple[Any, ...]:
        return (*map(strided, views), None)[:3]

    return (weights.recurrent(d), *three(d.inputs), *three(d.outputs), d.reverse)


def _extremes(instruction: Instruction, written: list[tuple[int, int, int]]) -> Any:
    """Where the extremes of so many images are written, last of all; or None."""
    images = instruction.parameters["extremes"]
    return None if images is None else (written[-1], images)


def _weights(instruction: Instruction, arguments: dict[str, Any], weights: Weights) -> Any:
    """The weights as the step takes them: packed once for all programs."""
    name, array = arguments.pop("name"), arguments["weights"]
    # Of what is packed, the program keeps no second copy: the instruction shows its shape.
    instruction.parameters["weights"] = array.shape
    if instruction.kind.endswith("depthwise"):
        return array.reshape(-1)
    return weights.packed(name, array, arguments["windows"][6:12])
