"""Instructions merged where the second would only read again what the first just wrote.

Rules, in order:

1. A lookup of what one convolution alone wrote becomes that convolution's table.
2. A sum with what one convolution alone wrote becomes that convolution's addend, if the other
   summand is there before it.
3. Quantizing what a LayerNormalization wrote becomes its second output.
4. Recurrences of one size that do not read each other become one: threads run them side by side.
5. An instruction of which nothing is read any more goes.
"""

from intact.engine.program import Instruction, Storage, Tensor

__all__ = ["fuse"]

_PRODUCTS = ("convolution", "depthwise")


def fuse(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    """The shorter program with the same results."""
    for rule in (_fuse_lookups, _fuse_sums, _fuse_quantize, _join_recurrences, _drop_unread):
        program = rule(program, outputs)
    return program


def _readers(program: list[Instruction], outputs: list[Tensor]) -> dict[Storage, int]:
    """How often each storage is read, as an output of the program too."""
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
        for tensor in instruction.outputs:
            writers.setdefault(tensor.storage, []).append(i)
    return writers


def _without(program: list[Instruction], gone: set[int]) -> list[Instruction]:
    return [instruction for i, instruction in enumerate(program) if i not in gone]


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
        if producer.kind not in _PRODUCTS:
            continue
        if producer.parameters["table"] is None and producer.parameters["addend"] is None:
            producer.parameters["table"] = instruction.parameters["table"]
            producer.outputs = instruction.outputs
            gone.add(i)
    return _without(program, gone)


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
        if at < 0 or at == other or readers[a.storage] != 1 or len(writers[a.storage]) != 1:
            continue
        producer = program[at]
        if producer.kind not in _PRODUCTS or producer.parameters["addend"] is not None:
            continue
        scales, points = (instruction.parameters[key] for key in ("scales", "zero_points"))
        producer.parameters["addend"] = (
            (scales[order[0]], scales[order[1]], scales[2]),
            (points[order[0]], points[order[1]]),
            instruction.parameters["clamp"],
        )
        producer.inputs = (*producer.inputs, b)
        producer.outputs = instruction.outputs
        gone.add(i)
        writers[instruction.output.storage] = [at]
    return _without(program, gone)


def _fuse_quantize(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    writers = _writers(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "quantize" or instruction.parameters["channels"] != 1:
            continue
        source = writers.get(instruction.inputs[0].storage, [])
        if len(source) != 1 or program[source[0]].kind != "layer_norm":
            continue
        producer = program[source[0]]
        whole = instruction.inputs[0].size == producer.output.size
        if whole and producer.parameters["quantized"] is None:
            scale, point = (instruction.parameters[key] for key in ("scale", "zero_point"))
            producer.parameters["quantized"] = (scale, point)
            producer.outputs = (*producer.outputs, instruction.output)
            gone.add(i)
    return _without(program, gone)


def _join_recurrences(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    """The second one of two takes the first one's directions over."""
    gone: set[int] = set()
    before: int | None = None
    for i, instruction in enumerate(program):
        if instruction.kind != "recurrence":
            continue
        if before is not None and _same_recurrence(program[before], instruction):
            first = program[before]
            written = {tensor.storage for tensor in first.outputs}
            between = program[before + 1 : i + 1]
            if not any(t.storage in written for later in between for t in later.inputs):
                instruction.inputs = first.inputs + instruction.inputs
                instruction.outputs = first.outputs + instruction.outputs
                parameters = instruction.parameters
                parameters["directions"] = first.parameters["directions"] + parameters["directions"]
                instruction.label = f"{first.label}, {instruction.label}"
                gone.add(before)
        before = i
    return _without(program, gone)


def _same_recurrence(a: Instruction, b: Instruction) -> bool:
    integers = [i.parameters["directions"][0].scale is not None for i in (a, b)]
    sizes = all(
        a.parameters[key] == b.parameters[key] for key in ("cell", "time", "batch", "hidden")
    )
    return sizes and integers[0] == integers[1]


def _drop_unread(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    needed = {tensor.storage for tensor in outputs}
    kept = []
    for instruction in reversed(program):
        if any(tensor.storage in needed for tensor in instruction.outputs):
            needed.update(tensor.storage for tensor in instruction.inputs)
            kept.append(instruction)
    return kept[::-1]
