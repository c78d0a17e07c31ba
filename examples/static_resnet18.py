"""Static quantization of torchvision's ResNet-18: calibrate, convert, save, load elsewhere, run.

    python examples/static_resnet18.py [--weights resnet18.pth] [--images FOLDER]

What PyTorch's deprecated sample meant to do with `torch.ao.quantization.prepare` and `convert`,
without stubs, without fusing by hand and without edits to the model.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision import transforms

import intact

# The child process knows nothing of the model but its file.
LOAD_AND_RUN = """
import sys, numpy, intact
model = intact.load(sys.argv[1])
scores = model(numpy.load(sys.argv[2]))
print("fresh process:", model, "class", scores.argmax(axis=1).tolist())
"""


def batches(folder: Path | None, count: int, size: int = 8) -> Iterator[torch.Tensor]:
    """Images of a folder as ResNet-18 was trained on them; noise where there is no folder."""
    if folder is None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(count // size):
            yield torch.randn(size, 3, 224, 224, generator=generator)
        return
    prepare = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = torchvision.datasets.ImageFolder(str(folder), prepare)
    chosen = torch.utils.data.Subset(images, range(min(count, len(images))))
    for image, _ in torch.utils.data.DataLoader(chosen, batch_size=size):
        yield image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a state dict; random weights without")
    parser.add_argument("--images", type=Path, help="a folder of calibration images by class")
    options = parser.parse_args()

    model = torchvision.models.resnet18(weights=None)
    if options.weights is not None:
        model.load_state_dict(torch.load(options.weights, weights_only=True))
    model.eval()
    example = torch.randn(1, 3, 224, 224)

    prepared = intact.prepare(model, example)
    for batch in batches(options.images, 64):
        prepared(batch)
    quantized = intact.convert(prepared, mode="static")
    print(quantized)

    test = next(batches(options.images, 8))
    print(intact.compare(model, {"static": quantized}, [test]))
    with tempfile.TemporaryDirectory() as folder:
        file, data = Path(folder) / "resnet18.int8.onnx", Path(folder) / "test.npy"
        quantized.save(file)
        np.save(data, test.numpy())
        subprocess.run([sys.executable, "-c", LOAD_AND_RUN, str(file), str(data)], check=True)


if __name__ == "__main__":
    main()
