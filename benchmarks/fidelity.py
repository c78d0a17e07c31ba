"""Signal to quantization noise of torchvision's models, beside ONNX Runtime's `quantize_static`.

    python -m benchmarks.fidelity [model ...]

Random weights, 16 calibration images and 32 others of standard normal noise, the same for both.
File sizes are given too.
"""

import argparse

import numpy as np
import onnx_ir as ir
from rich.console import Console
from rich.table import Table

import intact
from benchmarks import peers
from benchmarks.zoo import MODELS, torchvision_model
from intact.evaluate.fidelity import sqnr_db


def compare(name: str) -> tuple[str, ...]:
    """A row: SQNR of intact static, intact dynamic and the peer, and sizes in % of float."""
    model, example = torchvision_model(name)
    rng = np.random.default_rng(0)
    images = [rng.standard_normal((1, 3, 224, 224), np.float32) for _ in range(48)]
    prepared = intact.prepare(model, example)
    prepared.calibrate(images[:16])
    float_proto = ir.to_proto(prepared.graph)
    feed = prepared.signature.inputs[0].name
    content = float_proto.SerializeToString()
    ours = {mode: intact.convert(prepared, mode=mode) for mode in ("static", "dynamic")}
    peer = peers.session(peers.static(float_proto, [{feed: image} for image in images[:16]]))
    plain = peers.session(content)
    tests = [{feed: image} for image in images[16:]]
    reference = np.concatenate([plain.run(None, f)[0] for f in tests])
    sqnr = [
        sqnr_db(reference, np.concatenate([run(f)[0] for f in tests]))
        for run in (ours["static"].run, ours["dynamic"].run, lambda f: peer.run(None, f))
    ]
    sizes = [100 * q.size / len(content) for q in ours.values()]
    return (name, *(f"{s:.2f}" for s in sqnr), *(f"{s:.1f}" for s in sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=MODELS)
    console = Console(width=120)
    table = Table(title="SQNR at the output in dB, size in % of float")
    for column in ("model", "intact static", "intact dynamic", "ONNX Runtime static",
                   "static size", "dynamic size"):  # fmt: skip
        table.add_column(column, justify="left" if column == "model" else "right")
    for name in parser.parse_args().models:
        row = compare(name)
        table.add_row(*row)
        console.print("  ".join(row))
    console.print(table)


if __name__ == "__main__":
    main()
