"""Who writes and who reads what in a program."""

from intact.engine.program import Instruction, Storage, Tensor

__all__ = ["readers_of", "sole_producer", "without", "writers_of"]


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


def sole_producer(
    program: list[Instruction],
    readers: dict[Storage, int],
    writers: dict[Storage, list[int]],
    reader: Instruction,
) -> Instruction | None:
    """What alone wrote the reader's first input, if nothing else reads that."""
    source = reader.inputs[0].storage
    written = writers.get(source, [])
    return program[written[0]] if readers[source] == 1 and len(written) == 1 else None


def without(program: list[Instruction], gone: set[int]) -> list[Instruction]:
    return [instruction for i, instruction in enumerate(program) if i not in gone]
