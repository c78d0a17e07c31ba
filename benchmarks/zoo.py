"""torchvision's architectures with random weights whose activations look like trained ones'."""

import warnings
from typing import Any

from benchmarks.datasets import prepare_torchvision

prepare_torchvision()
import torch  # noqa: E402  (torchvision must be prepared before it is imported)
import torchvision.models  # noqa: E402

MODELS = (
    "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small",
    "efficientnet_b0", "shufflenet_v2_x1_0", "regnet_y_400mf", "densenet121", "convnext_tiny",
    "vit_b_16", "swin_t",
)  # fmt: skip


def torchvision_model(name: str) -> tuple[torch.nn.Module, tuple[Any, ...]]:
    """The model with random weights and an example input of one 224x224 image.

    BatchNorm statistics are set by passing noise through, since untouched ones leave activations
    that grow or vanish with depth, which no trained model has.
    """
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(torchvision.models, name)(weights=None)
    head = next(m for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear))
    if not head.weight.any():
        torch.nn.init.normal_(head.weight, std=0.02)  # ViT's starts at zero, and so would outputs
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # a cumulative average
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(8, 3, 224, 224))
    return model.eval(), (torch.randn(1, 3, 224, 224),)
