"""The program of one sample, from that of a batch whose samples have nothing to do with each other.

Floats that a batch's layers write leave the caches before the next layer reads them; those of one
sample do not. Every storage of the program either belongs to the samples, one equal part of its
memory after another, or to all of them (constants, tables). An instruction is known to keep
samples apart where each part of what it writes depends on the same part of what it reads, and on
what is common: that is a matter of its sizes and strides, whatever the model means by them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from intact.engine.program import BYTES, Instruction, Storage, Tensor

__all__ = ["OneSample", "one_sample"]

_Parameters = dict[str, Any]

# Less work than that is not worth the steps of so many samples, and weights that are used less
# often cost more to read again than is saved.
_LEAST_BYTES: Final = 2**20  # that one sample writes
_LEAST_USES: Final = 64  # of a weight by one sample, on average
_PRODUCTS: Final = ("convolution", "real_convolution")


@dataclass(frozen=True)
class OneSample:
    """What computes one of `count` samples.

    common: of each input, and of each constant behind them, whether all samples share it.
    """

    count: int
    instructions: list[Instruction]
    inputs: list[Tensor]
    outputs: list[Tensor]
    common: list[bool]


class _TogetherError(Exception):
    """Samples depend on each other, or it is not known that they do not."""


@dataclass
class _Split:
    """Which storages belong to the samples. parts: those of one sample instead."""

    count: int
    parts: dict[Storage, Storage] = field(default_factory=dict)
    common: set[Storage] = field(default_factory=set)

    def part(self, size: int) -> int:
        """A sample's share of a size."""
        if size % self.count:
            raise _TogetherError
        return size // self.count

    def apart(self, tensor: Tensor) -> None:
        """The tensor is all of its memory, a sample's part of it after another's."""
        if tensor.size * BYTES[tensor.dtype] != tensor.storage.bytes:
            raise _TogetherError
        self.stored_apart(tensor.storage)

    def stored_apart(self, storage: Storage) -> None:
        if storage in self.common:
            raise _TogetherError
        if storage not in self.parts:
            self.parts[storage] = Storage(self.part(storage.bytes), storage.place)

    def together(self, tensor: Tensor) -> None:
        """Samples share it."""
        if tensor.storage in self.parts:
            raise _TogetherError
        self.common.add(tensor.storage)

    def operand(self, tensor: Tensor, count: int, stride: int) -> None:
        """The first axis of a view: its indices, `stride` apart, are the samples', a part each.

        What lies at an index ends before the next: the last one's ends with the memory.
        """
        if stride == 0:
            self.together(tensor)
        elif count * stride == tensor.storage.bytes // BYTES[tensor.dtype]:
            self.stored_apart(tensor.storage)
        else:
            raise _TogetherError


def one_sample(
    program: list[Instruction],
    inputs: list[Tensor],
    constants: list[Tensor],
    outputs: list[Tensor],
    threads: int,
) -> OneSample | None:
    """What computes one of a batch's samples, where that pays; None where it does not.

    program: as it was lowered, before anything is fused. inputs, outputs: those of the model's
    stage. constants: what it reads besides. threads: which share out the samples.
    """
    batched = [tensor for tensor in inputs if tensor.shape]
    counts = {tensor.shape[0] for tensor in batched}
    count = counts.pop() if len(counts) == 1 else 1
    if count == 1 or count % threads or not _writes_floats(program, _LEAST_BYTES * count):
        return None
    try:
        split = _Split(count)
        for tensor in batched:
            split.apart(tensor)
        apart = _apart(program, batched)
        instructions = [_of_one(i, split, apart) for i in program]
        if any(tensor.storage not in split.parts for tensor in outputs):
            return None
        written = [_tensor(tensor, split) for tensor in outputs]
    except _TogetherError:
        return None
    if not _uses_weights_often(instructions):
        return None
    read = inputs + constants
    return OneSample(
        count, instructions, [_tensor(tensor, split) for tensor in read], written,
        [tensor.storage not in split.parts for tensor in read],
    )  # fmt: skip


def _writes_floats(program: list[Instruction], least: int) -> bool:
    """Whether it writes so many bytes, most of them of floats: others stay in caches anyway."""
    written = {"float32": 0, "uint8": 0}
    for instruction in program:
        for tensor in instruction.outputs:
            if tensor.dtype in written:
                written[tensor.dtype] += tensor.size * BYTES[tensor.dtype]
    return written["float32"] > written["uint8"] and sum(written.values()) >= least


def _uses_weights_often(one: list[Instruction]) -> bool:
    """Whether reading the weights again for each sample costs less than it saves."""
    weights = products = 0
    for instruction in one:
        if instruction.kind in _PRODUCTS:
            images, _, _, _, height, width, *_ = instruction.parameters["windows"]
            size = instruction.parameters["weights"].size
            weights += size
            products += images * height * width * size
    return products >= _LEAST_USES * weights


def _apart(program: list[Instruction], inputs: list[Tensor]) -> set[Storage]:
    """The storages that depend on the inputs."""
    found = {tensor.storage for tensor in inputs}
    before = -1
    while len(found) > before:
        before = len(found)
        for instruction in program:
            if any(t.storage in found for t in (*instruction.inputs, *instruction.outputs)):
                found |= {tensor.storage for tensor in instruction.outputs}
    return found


def _of_one(instruction: Instruction, split: _Split, apart: set[Storage]) -> Instruction:
    if not any(tensor.storage in apart for tensor in instruction.outputs):
        for tensor in (*instruction.inputs, *instruction.outputs):
            split.together(tensor)
        return instruction
    rule = _RULES.get(instruction.kind)
    if rule is None:
        raise _TogetherError
    changed = rule(instruction, split)
    outputs, inputs = (
        tuple(_tensor(tensor, split) for tensor in tensors)
        for tensors in (instruction.outputs, instruction.inputs)
    )
    if any(tensor.storage not in split.parts for tensor in instruction.outputs):
        raise _TogetherError
    parameters = {**instruction.parameters, **changed}
    return Instruction(instruction.kind, instruction.label, outputs, inputs, parameters)


def _tensor(tensor: Tensor, split: _Split) -> Tensor:
    if tensor.storage not in split.parts:
        return tensor
    first, *rest = tensor.shape or (1,)
    shape = (first // split.count, *rest)
    if first % split.count:  # an axis that holds more than samples
        shape = (split.part(tensor.size),)
    return Tensor(split.parts[tensor.storage], shape, tensor.dtype, tensor.images)


def _all_apart(instruction: Instruction, split: _Split) -> None:
    for tensor in (*instruction.inputs, *instruction.outputs):
        split.apart(tensor)


def _by(*names: str) -> Callable[[Instruction, _Split], _Parameters]:
    """Of what these parameters count there is a part for each sample, in all that is used."""

    def rule(instruction: Instruction, split: _Split) -> _Parameters:
        _all_apart(instruction, split)
        return {name: split.part(instruction.parameters[name]) for name in names}

    return rule


def _windows(instruction: Instruction, split: _Split) -> _Parameters:
    """Images; or the rows of a matrix, which are the lines of one image."""
    _all_apart(instruction, split)
    images, height, width, channels, *out = instruction.parameters["windows"]
    if images % split.count == 0:
        return {"windows": (images // split.count, height, width, channels, *out)}
    rows = (images, width, *out[:2]) == (1, 1, height, 1)
    if not rows or any(size != 1 for size in out[2:8]) or any(out[8:]):
        raise _TogetherError
    lines = split.part(height)
    return {"windows": (1, lines, 1, channels, lines, *out[1:])}


def _quantize(instruction: Instruction, split: _Split) -> _Parameters:
    _all_apart(instruction, split)
    images, channels, pixels = (instruction.parameters[n] for n in ("images", "channels", "pixels"))
    if images % split.count == 0:
        return {"images": images // split.count}
    if (images, channels) != (1, 1):
        raise _TogetherError
    return {"pixels": split.part(pixels)}


def _copy(instruction: Instruction, split: _Split) -> _Parameters:
    given = instruction.parameters
    x, y = instruction.inputs[0], instruction.output
    rows, columns = given["rows"], given["columns"]
    if rows % split.count == 0:
        for tensor, name in ((x, "x"), (y, "y")):
            split.operand(tensor, rows, given[f"{name}_stride"])
        return {"rows": rows // split.count}
    if rows != 1 or given["x_offset"] or given["y_offset"]:
        raise _TogetherError
    for tensor in (x, y):
        split.operand(tensor, columns, 1)
    part = split.part(columns)
    return {"columns": part, "x_stride": part, "y_stride": part}


def _binary(instruction: Instruction, split: _Split) -> _Parameters:
    sizes = instruction.parameters["sizes"]
    axis = next((i for i, size in enumerate(sizes) if size != 1), 0)
    split.apart(instruction.output)
    for tensor, name in zip(instruction.inputs, ("a_strides", "b_strides"), strict=True):
        split.operand(tensor, sizes[axis], instruction.parameters[name][axis])
    return {"sizes": _first_part(sizes, axis, split)}


def _elementwise(instruction: Instruction, split: _Split) -> _Parameters:
    given = instruction.parameters
    shape = given["shape"]
    views = zip(
        (instruction.output, *instruction.inputs), (given["y_view"], *given["x_views"]), strict=True
    )
    if not shape:
        raise _TogetherError
    for tensor, (_, strides) in views:
        split.operand(tensor, shape[0], strides[0])
    return {"shape": _first_part(shape, 0, split)}


def _attention(instruction: Instruction, split: _Split) -> _Parameters:
    given = instruction.parameters
    batch, *sizes = given["sizes"]
    q, k, v, *masks = instruction.inputs
    for tensor, name in ((q, "q"), (k, "k"), (v, "v"), (instruction.output, "y")):
        split.operand(tensor, batch, given[f"{name}_view"][1][0])
    part = split.part(batch)
    parts: _Parameters = {"sizes": (part, *sizes)}
    if not masks:
        return parts
    # The mask begins again after so many of the batch.
    every, (_, (stride, *_)) = given["masks"], given["mask_view"]
    if every % split.count == 0 and stride != 0:
        split.operand(masks[0], every, stride)
        return {**parts, "masks": every // split.count}
    if part % every:
        raise _TogetherError
    split.together(masks[0])
    return parts


def _gather(instruction: Instruction, split: _Split) -> _Parameters:
    """Rows of a table that samples share, or of what each of them has; by indices."""
    table, indices, *scales = instruction.inputs
    outer, rows, count, size = instruction.parameters["sizes"]
    split.apart(instruction.output)
    for tensor in scales:
        split.together(tensor)
    if table.storage in split.parts:
        split.apart(table)
        split.together(indices)
        return {"sizes": (split.part(outer), rows, count, size)}
    if outer != 1:
        raise _TogetherError
    split.together(table)
    split.apart(indices)
    return {"sizes": (1, rows, split.part(count), size)}


def _move(instruction: Instruction, split: _Split) -> _Parameters:
    given = instruction.parameters
    axes = given["axes"]
    count, *strides = axes[0]
    if given["offsets"][0] is not None:
        raise _TogetherError
    for tensor, stride in zip((instruction.inputs[0], instruction.output), strides, strict=True):
        split.operand(tensor, count, stride)
    return {"axes": ((split.part(count), *axes[0][1:]), *axes[1:])}


def _first_part(sizes: tuple[int, ...], axis: int, split: _Split) -> tuple[int, ...]:
    return (*sizes[:axis], split.part(sizes[axis]), *sizes[axis + 1 :])


_RULES: Final[dict[str, Callable[[Instruction, _Split], _Parameters]]] = {
    "add": _by("size"),
    "attention": _attention,
    "average_pool": _windows,
    "binary": _binary,
    "convolution": _windows,
    "copy": _copy,
    "depthwise": _windows,
    "dequantize": _quantize,
    "elementwise": _elementwise,
    "float_product": _by("rows"),
    "function": _by("size"),
    "gate": _by("images"),
    "gather": _gather,
    "layer_norm": _by("rows"),
    "max_pool": _windows,
    "move": _move,
    "quantize": _quantize,
    "quantize_rows": _by("rows"),
    "real_convolution": _windows,
    "real_depthwise": _windows,
    "real_pool": _windows,
    "softmax": _by("rows"),
}
