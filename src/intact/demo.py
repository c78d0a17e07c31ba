"""The demonstration: a small real CNN, trained here, quantized both ways and compared."""

from collections.abc import Callable
from pathlib import Path

import intact
from intact.core.errors import OutputPathError, RuntimeUnavailable

__all__ = ["run"]

EPOCHS = 12
CALIBRATION_SAMPLES = 256


def run(output: Path | None = None, progress: Callable[[int], None] | None = None) -> str:
    """Train, quantize, compare; the report as text.

    output: a directory to keep the quantized models in. progress: called with the epochs done.
    Raises RuntimeUnavailable if torch or scikit-learn is not installed.
    """
    try:
        import torch
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
        from torch import nn
    except ImportError as error:
        raise RuntimeUnavailable(
            f"the demo needs {error.name}; install it with: pip install 'intact[demo]'"
        ) from None
    if output is not None and not output.is_dir():
        raise OutputPathError(f"'{output}' is not a directory; make it first")

    digits = load_digits()
    images = torch.tensor(digits.images / 16.0, dtype=torch.float32)[:, None]
    labels = torch.tensor(digits.target)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.4, random_state=0, stratify=labels
    )

    def block(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Upsample(scale_factor=4, mode="bilinear"),
        *block(1, 32), *block(32, 64), nn.MaxPool2d(2), *block(64, 64), nn.MaxPool2d(2),
        *block(64, 128), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for epoch in range(EPOCHS):
        for part in torch.split(torch.randperm(len(train_x)), 64):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(train_x[part]), train_y[part])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if progress is not None:
            progress(epoch + 1)
    model.eval()

    calibration = torch.split(train_x[:CALIBRATION_SAMPLES], 32)
    static = intact.quantize(model, train_x[:1], mode="static", calibration=calibration)
    dynamic = intact.quantize(model, train_x[:1], mode="dynamic")
    candidates = {"static": static, "dynamic": dynamic}
    if output is not None:
        for name, quantized in candidates.items():
            quantized.save(output / f"digits.{name}.int8.onnx")
    test = list(zip(torch.split(test_x, 32), torch.split(test_y, 32), strict=True))
    comparison = intact.compare(model, candidates, test, metric="top1")
    ran = {"native": "intact's engine", "onnxruntime": "ONNX Runtime"}
    return (
        f"A CNN trained on {len(train_x)} of scikit-learn's digits, tested on the other "
        f"{len(test_x)};\nlatency of a batch of 32: float in ONNX Runtime, static in "
        f"{ran[static.runtime]}, dynamic in {ran[dynamic.runtime]}.\n\n{comparison}"
    )
