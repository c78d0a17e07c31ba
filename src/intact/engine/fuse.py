"""Instructions merged where the second would only read again what the first just wrote.

Rules, in order:

1. A lookup of what one convolution alone wrote becomes that convolution's table.
2. A sum with what one convolution alone wrote becomes that convolution's addend, if the other
   summand is there before it.
3. What one convolution alone wrote and a concatenation alone reads is written where the
   concatenation has it, with its table.
4. Quantizing what attention or (row by row, too) a LayerNormalization wrote becomes its second
   output.
5. Where a gate (squeeze-and-excite) multiplies what a depthwise convolution wrote, that finds the
   sums and extremes of the lines as it writes: the pool before the gate reads these alone, and the
   product is only there quantized.
6. Where images that one instruction alone wrote are quantized one by one, that instruction finds
   their extremes as it writes; and where sums are cheaper to compute twice than their floats are to
   write and read, it quantizes too.
7. Recurrences of one size that do not read each other become one: threads run them side by side.
8. An instruction of which nothing is read any more goes.
"""

from typing import Final

from intact.engine.program import Instruction, Storage, Tensor, Windows, new_tensor

__all__ = ["columns_of", "fuse", "readers_of", "writers_of"]

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
    program = _fuse_gates(program, outputs)
    program = _fuse_extremes(program, outputs, threads)
    program = _join_recurrences(program, outputs)
    return _drop_unread(program, outputs)


def readers_of(program: list[Instruction], outputs: list[Tensor]) -> dict[Storage, int]:
    """How often each storage is read, as an output of the program too."""
    readers: dict[Storage, int] = {}
    for instruction in program:
        for tensor in instruction.inputs:
            readers[tensor.storage] = readers.get(tensor.storage, 0) + 1
    for tensor in outputs:
        readers[tensor.storage] = readers.get(tensor.storage, 0) + 1
    return readers


def writers_of(program: list[Instruction]) -> dict[Storage, list[int]]:
    """Which instructions write to each storage."""
    writers: dict[Storage, list[int]] = {}
    for i, instruction in enumerate(program):
        for tensor in instruction.outputs:
            writers.setdefault(tensor.storage, []).append(i)
    return writers


def _sole_producer(
    program: list[Instruction],
    readers: dict[Storage, int],
    writers: dict[Storage, list[int]],
    reader: Instruction,
) -> Instruction | None:
    """What alone wrote the reader's first input, if nothing else reads that."""
    source = reader.inputs[0].storage
    written = writers.get(source, [])
    return program[written[0]] if readers[source] == 1 and len(written) == 1 else None


def _without(program: list[Instruction], gone: set[int]) -> list[Instruction]:
    return [instruction for i, instruction in enumerate(program) if i not in gone]


def _fuse_lookups(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = readers_of(program, outputs), writers_of(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "copy" or instruction.parameters["table"] is None:
            continue
        producer = _sole_producer(program, readers, writers, instruction)
        if producer is None or producer.kind not in _PRODUCTS:
            continue
        if instruction.inputs[0].size != instruction.output.size:
            continue
        if producer.parameters["table"] is None and producer.parameters["addend"] is None:
            producer.parameters["table"] = instruction.parameters["table"]
            producer.outputs = instruction.outputs
            gone.add(i)
    return _without(program, gone)


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
    return _without(program, gone)


def _fuse_joins(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = readers_of(program, outputs), writers_of(program)
    gone = set()
    for i, instruction in enumerate(program):
        if instruction.kind != "move":
            continue
        producer = _sole_producer(program, readers, writers, instruction)
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
    return _without(program, gone)


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
    return _without(program, gone)


def _fuse_gates(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    readers, writers = readers_of(program, outputs), writers_of(program)
    gone = set()
    for instruction in program:
        if instruction.kind != "quantize_rows" or instruction.parameters["channels"] != 1:
            continue
        product = _sole_producer(program, readers, writers, instruction)
        if product is None or product.kind != "binary":
            continue
        for gate, x in (product.inputs, product.inputs[::-1]):
            written = writers.get(x.storage, [])
            of_x = [i for i in program if any(t.storage is x.storage for t in i.inputs)]
            if len(written) != 1 or len(of_x) != 2 or readers[x.storage] != 2:
                continue
            producer, pool = program[written[0]], of_x[of_x[0] is product]
            images = instruction.parameters["rows"]
            if not (_gates(product, gate, x, images) and _finds_lines(producer, x)):
                continue
            if not _is_global_mean(pool, x):
                continue
            n, channels, lines, width = x.shape
            found = [new_tensor((n, channels, lines, 1), "float32", True) for _ in range(3)]
            producer.parameters["of_lines"] = True
            producer.outputs = (*producer.outputs, *found)
            pool.inputs = (found[0],)
            pool.parameters["windows"] = Windows(
                n, lines, 1, channels, 1, 1, kernel=(lines, 1)
            ).sizes
            instruction.kind = "quantize_gated"
            instruction.inputs = (x, gate, *found[1:])
            instruction.parameters = {
                "images": n, "lines": lines, "pixels": lines * width, "channels": channels
            }  # fmt: skip
            gone.add(program.index(product))
            break
    return _without(program, gone)


def _gates(product: Instruction, gate: Tensor, x: Tensor, images: int) -> bool:
    """Whether it multiplies each channel of so many images x by the gate's value of that."""
    given = product.parameters
    if given["operation"] != "Mul" or len(x.shape) != 4 or not x.images or x.shape[0] != images:
        return False
    n, channels, height, width = x.shape
    pixels = height * width
    strides = dict(zip(product.inputs, (given["a_strides"], given["b_strides"]), strict=True))
    outer = slice(n == 1, None)  # of one image the first stride does not matter
    return (
        gate.size == n * channels
        and given["sizes"] == (n, pixels, channels)
        and strides[x][outer] == (pixels * channels, channels, 1)[outer]
        and strides[gate][outer] == (channels, 0, 1)[outer]
    )


def _finds_lines(producer: Instruction, x: Tensor) -> bool:
    """Whether it can find the sums and extremes of the lines of the images that it writes."""
    given = producer.parameters
    return bool(
        producer.kind == "real_depthwise"
        and producer.output.size == x.size
        and given["extremes"] is None
        and given["of_lines"] is None
    )


def _is_global_mean(pool: Instruction, x: Tensor) -> bool:
    if pool.kind != "real_pool" or pool.parameters["counts"] is None:
        return False
    n, channels, height, width = x.shape
    whole = (n, height, width, channels, 1, 1, height, width)
    return bool(pool.parameters["windows"][:8] == whole)


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
    return _without(program, gone)


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
    depth = given["weights"].shape[1]
    return bool(depth <= _CHEAP_DEPTH and producer.output.size >= _MANY_FLOATS)


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
