"""Gates (squeeze-and-excite) over what a dynamic depthwise convolution writes.

The convolution finds the sums and extremes of the lines as it writes. The pool before the gate
reads these alone; and as floats round the same way whichever of them is multiplied, the extremes
of the product are those of the lines times the gates, so that it is only there quantized.
"""

from intact.engine.program import Instruction, Tensor, Windows, new_tensor
from intact.engine.uses import readers_of, sole_producer, without, writers_of

__all__ = ["fuse_gates"]


def fuse_gates(program: list[Instruction], outputs: list[Tensor]) -> list[Instruction]:
    """Rule 5 of `fuse`."""
    readers, writers = readers_of(program, outputs), writers_of(program)
    gone = set()
    for instruction in program:
        if instruction.kind != "quantize_rows" or instruction.parameters["channels"] != 1:
            continue
        product = sole_producer(program, readers, writers, instruction)
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
            gone.update(writers[product.output.storage])
            break
    return without(program, gone)


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
