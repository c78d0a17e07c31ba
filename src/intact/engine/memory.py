"""One arena for all tensors: those that are never alive together share memory."""

from typing import Final

from intact.engine.program import Instruction, Storage, Tensor

__all__ = ["place"]

ALIGNMENT: Final = 64


def place(program: list[Instruction], outputs: list[Tensor]) -> int:
    """Give every storage its place; the bytes of the arena.

    The largest first, each at the lowest offset that is free for as long as it is alive.
    """
    for i, tensor in enumerate(outputs):
        tensor.storage.place = ("output", i)
    alive: dict[Storage, tuple[int, int]] = {}
    i = 0
    for instruction in program:
        for tensor in (*instruction.outputs, *instruction.inputs):
            if tensor.storage.place is None:
                first, _ = alive.get(tensor.storage, (i, i))
                alive[tensor.storage] = (first, i)
        i += not instruction.chained  # those of a chain run at the same time
    placed: list[tuple[int, int, int, int]] = []  # offset, end, first, last
    for storage in sorted(alive, key=lambda s: (-s.bytes, alive[s])):
        first, last = alive[storage]
        size = -(-storage.bytes // ALIGNMENT) * ALIGNMENT
        offset = 0
        for begin, end, since, until in sorted(placed):
            if since <= last and first <= until:
                if begin >= offset + size:
                    break
                offset = max(offset, end)
        storage.place = ("arena", offset)
        placed.append((offset, offset + size, first, last))
    return max((end for _, end, _, _ in placed), default=0)
