"""What calibration costs: time beside a plain float loop, and peak memory as the data grows.

    python -m benchmarks.calibration

ResNet-18 at 224x224 with random weights; time is the median of interleaved rounds in one process,
memory the peak of a fresh process for each number of images.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import intact
from benchmarks import peers
from benchmarks.zoo import torchvision_model

IMAGES = 128
THREADS = 2


def images(count: int) -> Iterator[NDArray[np.float32]]:
    """A stream of images that is never held as a whole."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.standard_normal((1, 3, 224, 224), np.float32)


def prepared() -> intact.Prepared:
    model, example = torchvision_model("resnet18")
    return intact.prepare(model, example, threads=THREADS)


def measure_time(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of the plain loop and of calibration with all statistics, round by round."""
    model = prepared()
    session = peers.session(ir.to_proto(model.graph).SerializeToString(), THREADS)
    name = model.signature.inputs[0].name
    data = list(images(IMAGES))
    model.calibrate(data[:2])
    session.run(None, {name: data[0]})
    plain, calibration = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        for image in data:
            session.run(None, {name: image})
        middle = time.perf_counter()
        model.calibrate(data)
        plain.append(middle - start)
        calibration.append(time.perf_counter() - middle)
    return plain, calibration


def peak_memory(count: int) -> float:
    """Peak resident memory in MB of a process that calibrates with `count` images."""
    prepared().calibrate(images(count))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    context = multiprocessing.get_context("spawn")
    memory = {}
    for count in (64, 1024):
        with context.Pool(1) as pool:
            memory[count] = pool.apply(peak_memory, (count,))
    plain, calibration = measure_time(rounds)
    table = Table(title=f"ResNet-18, 224x224, {THREADS} threads")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row(f"plain float loop, {IMAGES} images", f"{statistics.median(plain):.2f} s")
    table.add_row(f"calibration, {IMAGES} images", f"{statistics.median(calibration):.2f} s")
    ratio = statistics.median(c / p for c, p in zip(calibration, plain, strict=True))
    table.add_row("ratio, median of rounds", f"{ratio:.2f}")
    for count, megabytes in memory.items():
        table.add_row(f"peak memory, {count} images", f"{megabytes:.0f} MB")
    table.add_row("growth from 64 to 1,024", f"{memory[1024] - memory[64]:+.0f} MB")
    Console().print(table)


if __name__ == "__main__":
    main()
