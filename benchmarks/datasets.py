"""The real models and data beside the repository, as feeds of the models' inputs."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

Feeds = dict[str, NDArray[Any]]

SHARED = Path(__file__).parents[2] / "shared"


def prepare_torchvision() -> None:
    """Make torchvision importable beside a CPU build of torch, where the helper for it is there.

    transformers imports torchvision too, wherever that is installed.
    """
    sys.path.insert(0, str(SHARED / "tools"))
    with contextlib.suppress(ImportError):
        import torchvision_cpu  # noqa: F401


def require_shared() -> Path:
    """The folder, or an exit that says what is missing."""
    if not SHARED.is_dir():
        raise SystemExit(
            f"this benchmark needs the models and data in '{SHARED.name}' beside the repository"
        )
    return SHARED


def cifar10(part: str) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Images as (N, 3, 32, 32), normalized as the ResNets were trained, and labels."""
    with np.load(require_shared() / "data/cifar10" / f"{part}.npz") as file:
        images, labels = file["images"], file["labels"]
    scaled = (images / 255.0 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    return scaled.astype(np.float32).transpose(0, 3, 1, 2), labels


def sentences(part: str) -> tuple[NDArray[np.float64], list[str], list[str]]:
    """Scores, first and second sentences of the semantic textual similarity benchmark."""
    text = (require_shared() / "data/sts" / f"sts-{part}.tsv").read_text()
    rows = [line.split("\t") for line in text.splitlines()]
    return np.array([float(r[0]) for r in rows]), [r[1] for r in rows], [r[2] for r in rows]


def faces() -> list[Feeds]:
    """The photographs as the face detector takes them, in the order of their names."""
    feeds = []
    for path in sorted((require_shared() / "data/faces").glob("*.jpg"), key=lambda p: int(p.stem)):
        image = Image.open(path).convert("RGB").resize((320, 240))
        array = (np.asarray(image, np.float32) - 127) / 128
        feeds.append({"input": array.transpose(2, 0, 1)[None]})
    return feeds


def recordings(test: bool) -> Iterator[NDArray[np.float32]]:
    """Spoken digits in [-1, 1] at 8 kHz, of the customary test or training split."""
    with np.load(require_shared() / "data/speech/digits_8khz.npz") as file:
        samples, offsets, index = file["samples"], file["offsets"], file["index"]
    for i in np.flatnonzero((index < 5) == test):
        yield samples[offsets[i] : offsets[i + 1]].astype(np.float32) / 32768


def dtln(blocks: int, test: bool) -> tuple[list[Feeds], list[Feeds]]:
    """Inputs of DTLN's two stages, as the float model meets them when it denoises speech.

    The signal moves by 128 samples a block of 512; states carry over, as in the model's own
    real-time example. Noise at 10 dB is added, for the model to have something to remove.
    """
    folder = require_shared() / "models"
    first, second = (
        ort.InferenceSession(folder / f"dtln_{i}.onnx", providers=["CPUExecutionProvider"])
        for i in (1, 2)
    )
    rng = np.random.default_rng(int(test))
    signal = np.concatenate([r for r, _ in zip(recordings(test), range(40), strict=False)])
    signal = signal + rng.normal(0, signal.std() / 10**0.5, signal.size).astype(np.float32)
    states = [np.zeros((1, 2, 128, 2), np.float32) for _ in range(2)]
    feeds: tuple[list[Feeds], list[Feeds]] = ([], [])
    for i in range(blocks):
        spectrum = np.fft.rfft(signal[i * 128 : i * 128 + 512])
        magnitude = np.abs(spectrum).astype(np.float32).reshape(1, 1, -1)
        feeds[0].append({"input_2": magnitude, "input_3": states[0]})
        mask, states[0] = first.run(None, feeds[0][-1])
        block = np.fft.irfft(magnitude * mask * np.exp(1j * np.angle(spectrum)))
        feeds[1].append({"input_4": block.astype(np.float32), "input_5": states[1]})
        _, states[1] = second.run(None, feeds[1][-1])
    return feeds
