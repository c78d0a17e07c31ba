"""Dynamic quantization of torchvision's ResNet-18: no data, every convolution, one file.

    python examples/dynamic_resnet18.py [--weights resnet18.pth]

PyTorch's deprecated `quantize_dynamic` quantizes only ResNet-18's last layer, 3 % of its size; here
all weights are int8, and every activation's scale is computed per image at run time.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torchvision

import intact

# The child process knows nothing of the model but its file.
LOAD_AND_RUN = """
import sys, numpy, intact
model = intact.load(sys.argv[1])
images = numpy.load(sys.argv[2])
together, alone = model(images), model(images[:1])
print("fresh process:", model)
print("an image's scores alone and in a batch differ by", abs(together[:1] - alone).max())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="a state dict; random weights without")
    options = parser.parse_args()

    model = torchvision.models.resnet18(weights=None)
    if options.weights is not None:
        model.load_state_dict(torch.load(options.weights, weights_only=True))
    model.eval()
    images = torch.randn(4, 3, 224, 224)

    quantized = intact.quantize(model, images[:1], mode="dynamic")
    print(intact.compare(model, {"dynamic": quantized}, [images], repetitions=5))
    with tempfile.TemporaryDirectory() as folder:
        file, data = Path(folder) / "resnet18.int8.onnx", Path(folder) / "test.npy"
        quantized.save(file)
        np.save(data, images.numpy())
        subprocess.run([sys.executable, "-c", LOAD_AND_RUN, str(file), str(data)], check=True)


if __name__ == "__main__":
    main()
