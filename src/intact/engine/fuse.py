"""Instructions merged where the second would only read again what the first just wrote.

Rules, in order, until none applies:

1. A lookup of what one convolution alone wrote becomes that convolution's table.
2. A sum with what one convolution alone wrote becomes that convolution's addend, if the other
   summand is there before it.
"""

from intact.engine.values import Instruction, Storage, Tensor

__all__ = ["fuse"]

_PRODUCTS = ("convolution", "depthwise")


def fuse(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    """The shorter program with the same results."""
    program = _fuse_lookups(program, outputs)
    return _fuse_sums(program, outputs)


def _readers(program: list[Instruction], outputs: list[Tensor]) -> dict[Storage, int]:
    """How often each storage is read or written beyond its first write, outputs included."""
    readers: dict[Storage, int] = {}
    for instruction in program:
        for tensor in instruction.inputs:
            readers[tensor.storage] = readers.get(tensor.storage, 0) + 1
    for tensor in outputs:
        readers[tensor.storage] = readers.get(tensor.storage, 0) + 1
    return readers


def _writers(program: list[Instruction]) -> dict[Storage, list[int]]:
    writers: dict[Storage, list[int]] = {}
    for i, instruction in enumerate(program):
        writers.setdefault(instruction.output.storage, []).append(i)
    return writers


def _fuse_lookups(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = _readers(program, outputs), _writers(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "copy" or instruction.parameters["table"] is None:
            continue
        source = instruction.inputs[0].storage
        if readers[source] != 1 or len(writers.get(source, ())) != 1:
            continue
        if instruction.inputs[0].size != instruction.output.size:
            continue
        producer = program[writers[source][0]]
        if producer.kind not in _PRODUCTS or producer.parameters["clamp"] is None:
            continue
        if producer.parameters["table"] is None and producer.parameters["addend"] is None:
            producer.parameters["table"] = instruction.parameters["table"]
            producer.output = instruction.output
            gone.add(i)
    return [instruction for i, instruction in enumerate(program) if i not in gone]


def _fuse_sums(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = _readers(program, outputs), _writers(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "add":
            continue
        a, b = instruction.inputs
        order = (0, 1)
        made = [writers.get(t.storage, [-1])[-1] for t in (a, b)]
        if made[1] > made[0]:
            a, b, order = b, a, (1, 0)
        at, other = max(made), min(made)
        if at < 0 or at == other or readers[a.storage] != 1 or at in gone:
            continue
        producer = program[at]
        if producer.kind not in _PRODUCTS or producer.parameters["clamp"] is None:
            continue
        if producer.parameters["addend"] is not None or len(writers[a.storage]) != 1:
            continue
        scales, points = (instruction.parameters[key] for key in ("scales", "zero_points"))
        producer.parameters["addend"] = (
            (scales[order[0]], scales[order[1]], scales[2]),
            (points[order[0]], points[order[1]]),
            instruction.parameters["clamp"],
        )
        producer.inputs = (*producer.inputs, b)
        producer.output = instruction.output
        gone.add(i)
        writers[instruction.output.storage] = [at]
    return [instruction for i, instruction in enumerate(program) if i not in gone]
