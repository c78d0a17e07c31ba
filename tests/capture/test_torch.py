"""Capture of PyTorch modules: the graph computes what the module does, and is called like it."""

import warnings
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from torch import nn

from intact.capture.signature import Outputs, Signature
from intact.capture.torch import capture
from intact.core.errors import CaptureError, InputError


def run(graph: ir.Model, signature: Signature, batch: Any) -> Any:
    session = ort.InferenceSession(
        ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return signature.restore(session.run(None, signature.bind_batch(batch)))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        features = self.drop(self.norm(self.conv(image)).relu()).mean((2, 3))
        return self.head(features)


def test_graph_computes_what_the_module_does_at_any_batch() -> None:
    model = Small().eval()
    graph, signature = capture(model, torch.randn(1, 3, 8, 8))
    for size in (1, 2, 5):
        x = torch.randn(size, 3, 8, 8)
        np.testing.assert_allclose(
            run(graph, signature, x), model(x).detach().numpy(), atol=1e-5, rtol=1e-5
        )


def test_training_flags_and_weights_are_left_alone() -> None:
    model = Small()
    model.drop.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, torch.randn(2, 3, 8, 8))
    assert model.training and model.conv.training and not model.drop.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_nodes_are_named_after_modules() -> None:
    graph, signature = capture(Small(), torch.randn(2, 3, 8, 8))
    nodes = {str(node.name): node for node in graph.graph}
    assert nodes["head"].op_type == "Gemm" and nodes["conv"].op_type == "Conv"
    assert nodes["head"].metadata_props["intact.module_class"] == "torch.nn.modules.linear.Linear"
    assert len(nodes) == len(list(graph.graph))
    assert [spec.name for spec in signature.inputs] == ["image"]


def test_exporter_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        capture(Small(), torch.randn(2, 3, 8, 8))
    assert capfd.readouterr() == ("", "")


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(
        self, x: torch.Tensor, pair: Any = None, scale: bool = True, index: Any = None
    ) -> dict[str, Any]:
        y = self.linear(x) * (2 if scale else 1)
        return {"y": y + index[:, None], "parts": (y + pair["a"], [y * pair["b"]]), "none": None}


def test_nesting_of_arguments_and_results() -> None:
    model = Nested()

    def call(size: int) -> dict[str, Any]:
        pair = {"a": torch.randn(size, 4), "b": torch.randn(size, 4)}
        return {
            "x": torch.randn(size, 4),
            "pair": pair,
            "scale": False,
            "index": torch.arange(size),
        }

    graph, signature = capture(model, call(2))
    assert Signature.from_json(signature.to_json()) == signature
    batch = call(5)
    result, expected = run(graph, signature, batch), model(**batch)
    assert isinstance(result, Outputs) and result["none"] is None
    np.testing.assert_allclose(result.y, expected["y"].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(result[0], expected["y"].detach().numpy(), atol=1e-6)
    np.testing.assert_allclose(
        result.parts[1][0], expected["parts"][1][0].detach().numpy(), atol=1e-6
    )
    with pytest.raises(InputError, match="captured with False"):
        signature.bind_batch({**batch, "scale": True})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_model_with_varying_length(kind: Any) -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(6, 8, batch_first=True, bidirectional=True)
            self.head = nn.Linear(16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][:, -1])

    model = Classifier()
    graph, signature = capture(model, torch.randn(1, 10, 6), {"x": {1: "time"}})
    assert signature.inputs[0].shape == ("batch", "time", 6)
    x = torch.randn(3, 7, 6)
    np.testing.assert_allclose(run(graph, signature, x), model(x).detach().numpy(), atol=1e-5)


def test_transformer_with_keyword_arguments() -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torchvision_cpu", reason="transformers needs an importable torchvision")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        vocab_size=50,
    )  # fmt: skip
    model = transformers.BertModel(config).eval()

    def call(size: int, length: int) -> dict[str, torch.Tensor]:
        mask = torch.ones(size, length, dtype=torch.long)
        mask[0, length // 2 :] = 0
        return {"input_ids": torch.randint(0, 50, (size, length)), "attention_mask": mask}

    graph, signature = capture(
        model, call(1, 6), {"input_ids": {1: "length"}, "attention_mask": {1: "length"}}
    )
    batch = call(3, 9)
    result = run(graph, signature, {**batch, "labels": torch.zeros(3)})
    expected = model(**batch).last_hidden_state.detach().numpy()
    np.testing.assert_allclose(result.last_hidden_state, expected, atol=1e-5)


def test_fixed_batch_is_kept_with_a_warning() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack([x[0], x[1]]) * 2 if x.shape[0] == 2 else x

    with pytest.warns(UserWarning, match="fixes the batch of 'x' at 2"):
        _, signature = capture(Fixed(), torch.randn(2, 4))
    assert signature.inputs[0].shape == (2, 4)


class Depends(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_axis_that_the_model_fixes_cannot_vary() -> None:
    with pytest.raises(CaptureError, match=r"axis 1 of 'image' .* fixes it at 3"):
        capture(Small(), torch.randn(2, 3, 8, 8), {"image": {1: "channels"}})


def test_data_dependent_control_flow_names_the_line() -> None:
    with pytest.raises(CaptureError, match=r"test_torch\.py, line \d+: if x\.sum\(\) > 0"):
        capture(Depends(), torch.randn(2, 4))


@pytest.mark.parametrize(
    ("example", "axes", "message"),
    [
        ({"wrong": torch.randn(2, 4)}, {}, "do not fit"),
        ("text", {}, "example_inputs is a str"),
        (torch.randn(2, 3, 8, 8), {"other": {1: "a"}}, "dynamic_axes names 'other'"),
        (torch.randn(2, 3, 8, 8), {"image": {7: "a"}}, "axis 7"),
    ],
)
def test_bad_example_is_refused(example: Any, axes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(Small(), example, axes)


def test_model_that_raises_on_the_example_is_named() -> None:
    with pytest.raises(CaptureError, match="raises RuntimeError on example_inputs"):
        capture(Small(), torch.randn(2, 5, 8, 8))
