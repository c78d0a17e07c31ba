"""Convolutions that are computed together, a few lines of an image at a time.

What lies between two of them never leaves a thread's cache then. It pays around depthwise
convolutions, which have little to do for what they read and write, and where what lies between is
larger than a core's cache: the expanded tensor of an inverted residual block (MobileNetV2).
"""

from itertools import pairwise
from typing import Final

from intact.engine.fuse import columns_of
from intact.engine.program import Instruction, Tensor
from intact.engine.uses import readers_of, writers_of

__all__ = ["chain"]

_KINDS: Final = ("convolution", "depthwise")
_LARGE: Final = 2**15  # bytes a thread
_MOST_WEIGHTS: Final = 2**17  # bytes, which are read again for each few lines
_MOST_STAGES: Final = 16
_MOST_AGAIN: Final = 1 / 8  # of the lines


def chain(program: list[Instruction], outputs: list[Tensor], threads: int) -> None:
    """Mark the instructions whose output only the next one reads, a few lines at a time."""
    readers, writers = readers_of(program, outputs), writers_of(program)
    length = 1
    for first, second in pairwise(program):
        storage = first.output.storage
        alone = readers.get(storage) == 1 and len(writers[storage]) == 1
        if (
            length < _MOST_STAGES
            and alone
            and _fits(first, second)
            and _pays(first, second, threads)
        ):
            first.chained = True
            storage.place = ("lines", 0)
            length += 1
        else:
            length = 1


def _fits(first: Instruction, second: Instruction) -> bool:
    """Whether both compute lines of images, and the second those of what the first writes."""
    if first.kind not in _KINDS or second.kind not in _KINDS or first.parameters.get("within"):
        return False
    if second.inputs[0].storage is not first.output.storage:
        return False
    images, _, _, _, *size = first.parameters["windows"][:6]
    n, height, width, channels = second.parameters["windows"][:4]
    return (images, *size) == (n, height, width) and columns_of(first) == channels


def _pays(first: Instruction, second: Instruction, threads: int) -> bool:
    if "depthwise" not in (first.kind, second.kind):
        return False
    images, height, _, _, _, _, kernel, _, stride, _, dilation, *_ = second.parameters["windows"]
    # Threads that share out an image compute the lines around their own again.
    again = max((kernel - 1) * dilation + 1 - stride, 0) * (threads - 1) if images % threads else 0
    weights = sum(i.parameters["weights"].size for i in (first, second))
    enough = first.output.storage.bytes > _LARGE * threads
    return enough and weights <= _MOST_WEIGHTS and again <= _MOST_AGAIN * height
