"""Latency beside ONNX Runtime and OpenVINO: interleaved in one run, medians, as ratios.

    pip install -c constraints.txt -e '.[bench]'
    python -m benchmarks.latency                        # seven models, 2 threads, batch 1
    python -m benchmarks.latency --threads 1 resnet18
    python -m benchmarks.latency --load                 # time to load, and memory at run time

Models have random weights (speed does not depend on them), MiniLM its own. The ratio is that of
medians: the best peer's to ours. OpenVINO computes "float" in bfloat16 where the CPU has it.
`--cap VNNI` keeps OpenVINO, and with INTACT_ISA=avx512_vbmi ours, from using AMX.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import intact
from benchmarks import peers
from intact.core.native import native
from intact.evaluate.latency import interleaved
from intact.evaluate.operators import operators
from intact.run.model import QuantizedModel

MODELS = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "minilm", "bert", "vit_b_16"
)  # fmt: skip
TOKENS = 128
CALIBRATION = 4  # samples: ranges do not change speed
Feeds = dict[str, NDArray[Any]]
Run = Callable[[Feeds], object]


def prepared(name: str) -> tuple[intact.Prepared, Callable[[int], Feeds]]:
    """The model, ready to be calibrated, and a maker of batches."""
    rng = np.random.default_rng(0)
    if name in ("minilm", "bert"):
        import torch

        from benchmarks import text_models

        module = text_models.load(name)

        def tokens(batch: int) -> Feeds:
            ids = rng.integers(1000, 20000, (batch, TOKENS))
            return {"input_ids": ids, "attention_mask": np.ones((batch, TOKENS), np.int64)}

        example = {key: torch.from_numpy(value) for key, value in tokens(1).items()}
        axes = {key: {1: "tokens"} for key in example}
        return intact.prepare(module, example, dynamic_axes=axes), tokens
    from benchmarks.zoo import torchvision_model

    model = intact.prepare(*torchvision_model(name))
    key = model.signature.inputs[0].name
    return model, lambda batch: {key: rng.standard_normal((batch, 3, 224, 224), np.float32)}


def write_models(name: str, folder: Path) -> tuple[dict[str, Path], Feeds, int]:
    """All forms of the model as files, one sample, and the multiply-accumulates of a sample."""
    model, make = prepared(name)
    batches = [make(1) for _ in range(CALIBRATION)]
    model.calibrate(batches)
    floats = ir.to_proto(model.graph)
    forms: dict[str, bytes] = {"onnxruntime float": floats.SerializeToString()}
    static = intact.convert(model)
    forms["ours static"] = static.content
    forms["ours dynamic"] = intact.convert(model, mode="dynamic").content
    forms["onnxruntime qdq"] = peers.static(floats, batches)
    forms["onnxruntime qoperator"] = peers.static(floats, batches, qoperator=True)
    forms["onnxruntime dynamic"] = peers.dynamic(floats)
    macs = sum(op.macs for op in operators(static, batches[0]))
    files = {}
    for form, content in forms.items():
        files[form] = folder / f"{name}.{form.replace(' ', '-')}.onnx"
        files[form].write_bytes(content)
    files["openvino float"] = files["onnxruntime float"]
    files["openvino int8"] = folder / f"{name}.nncf.xml"
    peers.nncf(files["onnxruntime float"], batches, files["openvino int8"])
    return files, make(1), macs


def open_form(form: str, path: Path, threads: int, feeds: Feeds) -> Run:
    """A runner of one form of a model."""
    if form.startswith("ours"):
        model = QuantizedModel(path.read_bytes(), threads, "native")
        return model.run
    if form.startswith("openvino"):
        return peers.openvino(path, threads, feeds)
    session = peers.session(path.read_bytes(), threads)
    return lambda given: session.run(None, given)


def measure(name: str, threads: int, batch: int, repetitions: int) -> dict[str, Any]:
    """Medians in milliseconds of each form, and the work of one sample."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        files, sample, macs = write_models(name, Path(folder))
        feeds = {key: np.repeat(value, batch, axis=0) for key, value in sample.items()}
        runs = {form: open_form(form, path, threads, feeds) for form, path in files.items()}
        times = interleaved(
            {form: lambda run=run: run(feeds) for form, run in runs.items()},  # type: ignore[misc]
            repetitions,
        )
    medians = {form: statistics.median(taken) for form, taken in times.items()}
    return {"name": name, "macs": macs * batch, "ms": medians}


def load_cost(name: str, threads: int) -> dict[str, Any]:
    """Seconds to load and run once, and resident memory afterwards, each in its own process."""
    warnings.simplefilter("ignore")
    result: dict[str, Any] = {"name": name, "load": {}}
    with tempfile.TemporaryDirectory() as folder:
        files, sample, _ = write_models(name, Path(folder))
        for form in ("ours static", "onnxruntime qdq", "openvino int8"):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                result["load"][form] = pool.apply(_load, (form, files[form], threads, sample))
    return result


def _load(form: str, path: Path, threads: int, feeds: Feeds) -> tuple[float, float]:
    before = _resident()
    start = time.perf_counter()
    run = open_form(form, path, threads, feeds)
    run(feeds)
    seconds = time.perf_counter() - start
    for _ in range(5):
        run(feeds)
    return seconds, (_resident() - before) / 2**20


def _resident() -> int:
    """Bytes of this process in memory (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def in_processes(
    work: Callable[..., dict[str, Any]], *arguments: Any, names: list[str]
) -> Iterator[dict[str, Any]]:
    """One fresh process a model, so that none inherits the memory of another."""
    context = multiprocessing.get_context("spawn")
    for name in names:
        with context.Pool(1) as pool:
            yield pool.apply(work, (name, *arguments))


def latency_table(results: list[dict[str, Any]], peak: float, title: str) -> Table:
    table = Table(title=title)
    for column in ("model", "GMAC", "best peer", "ms", "static", "ratio", "of peak", "dynamic",
                   "dynamic / static", "best peer's dynamic"):  # fmt: skip
        table.add_column(column, justify="left" if column in ("model", "best peer") else "right")
    ratios = []
    for result in results:
        ms, gmacs = result["ms"], result["macs"] / 1e9
        peers_ms = {form: value for form, value in ms.items() if not form.startswith("ours")}
        best = min(peers_ms, key=peers_ms.__getitem__)
        ours, dynamic = ms["ours static"], ms["ours dynamic"]
        ratios.append(peers_ms[best] / ours)
        table.add_row(
            result["name"], f"{gmacs:.2f}", best, f"{peers_ms[best]:.2f}", f"{ours:.2f}",
            f"{ratios[-1]:.2f}", f"{100 * gmacs / (ours / 1e3) / peak:.0f} %", f"{dynamic:.2f}",
            f"{dynamic / ours:.2f}", f"{ms['onnxruntime dynamic']:.1f}",
        )  # fmt: skip
    table.add_row("geometric mean", "", "", "", "", f"{statistics.geometric_mean(ratios):.2f}")
    return table


def load_table(results: list[dict[str, Any]]) -> Table:
    table = Table(title="load and first run, seconds; memory that it takes, MB")
    table.add_column("model")
    forms = list(results[0]["load"])
    for form in forms:
        table.add_column(form, justify="right")
    for result in results:
        cells = [f"{seconds:.2f} s, {mb:.0f} MB" for seconds, mb in result["load"].values()]
        table.add_row(result["name"], *cells)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(MODELS), help="default: all seven")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--repetitions", type=int, default=40)
    parser.add_argument("--load", action="store_true", help="time to load and memory instead")
    parser.add_argument("--cap", choices=("VNNI",), help="keep OpenVINO from using AMX")
    parser.add_argument("--json", help="write the raw medians there too")
    options = parser.parse_args()
    if native is None:
        raise SystemExit("the native engine is not built here")
    if options.cap:
        os.environ["ONEDNN_MAX_CPU_ISA"] = os.environ["DNNL_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"
    console = Console(width=140)
    if options.load:
        results = [load_cost(name, options.threads) for name in options.models]
        console.print(load_table(results))
        return
    engine = native.Engine.create(options.threads, os.environ.get("INTACT_ISA", ""))
    peak = engine.peak()
    arguments = (options.threads, options.batch, options.repetitions)
    results = list(in_processes(measure, *arguments, names=options.models))
    title = (
        f"{options.threads} threads, batch {options.batch}, {engine.isa}; measured peak "
        f"{peak:.0f} GMAC/s; milliseconds"
    )
    console.print(latency_table(results, peak, title))
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
