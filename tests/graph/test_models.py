"""Real architectures as PyTorch exports them, at batch sizes other than the example's."""

import contextlib
import importlib
from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from intact.capture.torch import capture
from intact.graph.passes.attention import ATTENTION
from tests.graph.equivalence import operators, prepared, randomize

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# Formulas that PyTorch's exporter, and what it writes them as, must not leave spelled out.
SPELLED = {"Erf", "Pow", "Sqrt", "ReduceMean", "Identity", "Dropout", "Constant", "ConstantOfShape"}


@pytest.fixture(scope="module")
def torchvision() -> Any:
    """torchvision.models, by way of the helper that lets it import beside a CPU build of torch."""
    with contextlib.suppress(ImportError):
        importlib.import_module("torchvision_cpu")
    return pytest.importorskip("torchvision.models", reason="torchvision is not installed")


def simplified(model: torch.nn.Module, example: Any, other: Any, axes: Any = None) -> ir.Model:
    """The prepared graph of the model, which computes the same at both batch sizes."""
    graph, signature = capture(randomize(model), example, axes)
    return prepared(graph, signature.bind_batch(example), signature.bind_batch(other))


def images(count: int, size: int = 64) -> torch.Tensor:
    return torch.from_numpy(
        np.random.default_rng(count).normal(size=(count, 3, size, size)).astype(np.float32)
    )


def sentences(count: int, length: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(count, length, dtype=torch.long)
    mask[0, length // 2 :] = 0
    return {
        "input_ids": torch.arange(count * length).reshape(count, length),
        "attention_mask": mask,
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"Conv": 20, "GlobalAveragePool": 1, "BatchNormalization": 0}),
        (
            "mobilenet_v3_small",
            {"Conv": 52, "HardSwish": 19, "HardSigmoid": 9, "GlobalAveragePool": 10},
        ),
    ],
)
def test_convolutional(torchvision: Any, name: str, expected: dict[str, int]) -> None:
    result = simplified(getattr(torchvision, name)(), images(1), images(3))
    found = Counter(operators(result))
    assert {op: found[op] for op in expected} == expected
    assert not SPELLED & set(found)
    for node in result.graph:
        if node.op_type in ("Conv", "Gemm"):
            assert node.name == node.metadata_props["intact.module"]


def test_densenet_folds_the_normalizations_behind_convolutions(torchvision: Any) -> None:
    model = torchvision.DenseNet(8, (2, 2, 2), 16, num_classes=10)
    result = simplified(model, images(1), images(3))
    # Those behind a concatenation, before the ReLU of a dense layer or a transition, remain.
    assert operators(result).count("BatchNormalization") == 2 * 3 + 2 + 1


def test_vision_transformer(torchvision: Any) -> None:
    model = torchvision.VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=10)
    torch.nn.init.normal_(model.heads.head.weight)
    result = simplified(model, images(1), images(3))
    found = Counter(operators(result))
    assert (found["Gelu"], found["LayerNormalization"]) == (2, 5)
    assert not SPELLED & set(found)
    marks = Counter(node.metadata_props.get(ATTENTION) for node in result.graph)
    assert (marks["scores"], marks["softmax"], marks["context"]) == (2, 2, 2)


def test_windowed_attention_is_marked_and_its_masks_are_constant(torchvision: Any) -> None:
    model = torchvision.SwinTransformer([4, 4], 16, [2], [2], [3, 3], num_classes=10)
    result = simplified(model, images(1, 32), images(3, 32))
    assert not (SPELLED | {"ScatterND"}) & set(operators(result))
    marks = Counter(node.metadata_props.get(ATTENTION) for node in result.graph)
    assert marks["softmax"] == 2


@pytest.mark.usefixtures("torchvision")  # which transformers looks for
@pytest.mark.parametrize(("attention", "activation"), [("sdpa", "gelu"), ("eager", "gelu_new")])
def test_bert(attention: str, activation: str) -> None:
    config = transformers.BertConfig(
        vocab_size=100, hidden_act=activation, attn_implementation=attention, **SMALL
    )
    axes = {"input_ids": {1: "length"}, "attention_mask": {1: "length"}}
    result = simplified(transformers.BertModel(config), sentences(2, 7), sentences(3, 9), axes)
    found = Counter(operators(result))
    assert (found["Gelu"], found["LayerNormalization"]) == (2, 5)
    assert not SPELLED & set(found)
    marks = Counter(node.metadata_props.get(ATTENTION) for node in result.graph)
    assert marks["softmax"] == 2


@pytest.mark.parametrize("kind", [torch.nn.LSTM, torch.nn.GRU])
def test_recurrent_weights_become_constant(kind: type[torch.nn.LSTM]) -> None:
    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = kind(8, 16, num_layers=2, batch_first=True, bidirectional=True)
            self.head = torch.nn.Linear(32, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers(x)[0][:, -1])

    axes = {"x": {1: "time"}}
    result = simplified(Classifier(), torch.randn(2, 9, 8), torch.randn(3, 5, 8), axes)
    cells = [node for node in result.graph if node.op_type == kind.__name__]
    assert len(cells) == 2
    assert all(v.const_value is not None for node in cells for v in node.inputs[1:4])
