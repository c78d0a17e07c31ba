"""Instructions merged where the second would only read again what the first just wrote.

Rules, in order:

1. A lookup of what one convolution alone wrote becomes that convolution's table.
2. A sum with what one convolution alone wrote becomes that convolution's addend, if the other
   summand is there before it.
3. What one convolution alone wrote and a concatenation alone reads is written where the
   concatenation has it, with its table.
4. Quantizing what attention or (row by row, too) a LayerNormalization wrote becomes its second
   output.
5. Where a gate multiplies what a depthwise convolution wrote, the product is only there quantized
   (see `gates`).
6. Where images that one instruction alone wrote are quantized one by one, that instruction finds
   their extremes as it writes; and where sums are cheaper to compute twice than their floats are to
   write and read, it quantizes too.
7. Recurrences of one size that do not read each other become one: threads run them side by side.
8. An instruction of which nothing is read any more goes.
"""

from typing import Final

from intact.engine.gates import fuse_gates
from intact.engine.program import Instruction, Tensor, new_tensor
from intact.engine.uses import readers_of, sole_producer, without, writers_of

__all__ = ["columns_of", "fuse"]

_PRODUCTS: Final = ("convolution", "depthwise")


_QUANTIZING: Final = ("attention", "layer_norm")
# Products of so few values that a second pass costs less than floats beyond the L2 cache.
_CHEAP_DEPTH: Final = 128
_MANY_FLOATS: Final = 2**18
# Functions whose extremes are those of the extremes of what they are given, and of where they turn.
_BOUNDED: Final = frozenset({"Clip", "Gelu", "HardSwish", "Relu", "Sigmoid", "Swish", "Tanh"})


def fuse(program: list[Instruction], outputs: list[Tensor], threads: int) -> list[Instruction]:
    """The shorter program with the same results, for an engine of so many threads."""
    program = _fuse_lookups(program, outputs)
    program = _fuse_sums(program, outputs)
    program = _fuse_joins(program, outputs)
    program = _fuse_quantize(program, outputs)
    program = fuse_gates(program, outputs)
    program = _fuse_extremes(program, outputs, threads)
    program = _join_recurrences(program, outputs)
    return _drop_unread(program, outputs)


def _fuse_lookups(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = readers_of(program, outputs), writers_of(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "copy" or instruction.parameters["table"] is None:
            continue
        producer = sole_producer(program, readers, writers, instruction)
        if producer is None or producer.kind not in _PRODUCTS:
            continue
        if instruction.inputs[0].size != instruction.output.size:
            continue
        if producer.parameters["table"] is None and producer.parameters["addend"] is None:
            producer.parameters["table"] = instruction.parameters["table"]
            producer.outputs = instruction.outputs
            gone.add(i)
    return without(program, gone)


def _fuse_sums(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = readers_of(program, outputs), writers_of(program)
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
    return without(program, gone)


def _fuse_joins(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = readers_of(program, outputs), writers_of(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "move":
            continue
        producer = sole_producer(program, readers, writers, instruction)
        if producer is None or producer.kind != "convolution":
            continue
        if not _joins_rows(instruction, producer):
            continue
        given, move = producer.parameters, instruction.parameters
        if given["addend"] is None and (given["table"] is None or move["table"] is None):
            given["within"] = (move["axes"][0][2], move["y_offset"])
            given["table"] = move["table"] if given["table"] is None else given["table"]
            producer.outputs = instruction.outputs
            gone.add(i)
    return without(program, gone)


def _joins_rows(move: Instruction, producer: Instruction) -> bool:
    """Whether the move puts the rows that the producer writes, as they are, into wider ones."""
    given = move.parameters
    n, columns = producer.output.size, columns_of(producer)
    wide = given["axes"][0][2]
    whole = ((n // columns, columns, wide), (columns, 1, 1))
    return bool(
        given["axes"] == whole
        and all(offsets is None for offsets in given["offsets"])
        and given["value_bytes"] == 1
        and given["x_offset"] == 0
        and given["y_offset"] + columns <= wide
        and move.output.size == n // columns * wide
    )


def columns_of(product: Instruction) -> int:
    """The channels that a convolution writes."""
    if product.kind == "depthwise":
        return int(product.parameters["windows"][3])
    groups, _, n = product.parameters["weights"].shape
    return int(groups * n)


def _fuse_quantize(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    writers = writers_of(program)
    gone = set()
    for i, instruction in enumerate(program):
        kind, given = instruction.kind, instruction.parameters
        if kind not in ("quantize", "quantize_rows") or given["channels"] != 1:
            continue
        source = writers.get(instruction.inputs[0].storage, [])
        if len(source) != 1 or program[source[0]].kind not in _QUANTIZING:
            continue
        producer = program[source[0]]
        whole = instruction.inputs[0].size == producer.output.size
        if not whole or producer.parameters["quantized"] is not None:
            continue
        if kind == "quantize":
            producer.parameters["quantized"] = (given["scale"], given["zero_point"])
        elif given["rows"] == producer.parameters.get("rows"):
            producer.parameters["quantized"] = (1.0, 0)
        else:
            continue
        producer.outputs = (*producer.outputs, *instruction.outputs)
        gone.add(i)
    return without(program, gone)


def _fuse_extremes(
    program: list[Instruction], outputs: list[Tensor], threads: int
) -> list[Instruction]:
    readers, writers = readers_of(program, outputs), writers_of(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "quantize_rows" or instruction.parameters["channels"] != 1:
            continue
        images = instruction.parameters["rows"]
        source = writers.get(instruction.inputs[0].storage, [])
        if len(source) != 1 or not _writes_images(program[source[0]], images):
            continue
        producer = program[source[0]]
        if producer.parameters["extremes"] or producer.output.size != instruction.inputs[0].size:
            continue
        extremes = new_tensor((threads, images, 2), "float32")
        producer.parameters["extremes"] = images
        alone = readers[producer.output.storage] == 1
        if alone and _is_cheap(producer):
            producer.parameters["found"] = True
            producer.outputs = (*instruction.outputs, extremes)
            gone.add(i)
        else:
            producer.outputs = (*producer.outputs, extremes)
            instruction.parameters["extremes"] = images
            instruction.inputs = (*instruction.inputs, extremes)
    return without(program, gone)


def _writes_images(instruction: Instruction, images: int) -> bool:
    """Whether it writes so many images of floats, of more than a pixel, one after another."""
    match instruction.kind:
        case "real_convolution" | "real_depthwise":
            n, _, _, _, height, width, *_ = instruction.parameters["windows"]
            whole = instruction.parameters.get("quantized") is None
            return bool(whole and n == images and height * width > 1)
        case "binary":
            outer, rows, _ = instruction.parameters["sizes"]
            return bool((outer * rows) % images == 0)
    return False


def _is_cheap(producer: Instruction) -> bool:
    """Whether its sums cost less than to write floats and read them again."""
    given = producer.parameters
    if producer.kind == "real_depthwise":
        function = given["function"]
        return given["other"] is False and (function is None or function[0] in _BOUNDED)
    if producer.kind != "real_convolution":
        return False
    # Of one image, so that its results are the same bytes whatever else is in the batch.
    depth, floats = given["weights"].shape[1], producer.output.size // given["windows"][0]
    return bool(depth <= _CHEAP_DEPTH and floats >= _MANY_FLOATS)


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
    return without(program, gone)


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
