"""Every architecture that users bring: captured and quantized both ways, and still itself."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import intact
from intact.core.native import native
from intact.evaluate.fidelity import sqnr_db
from intact.run.model import FloatModel

pytest.importorskip("torchvision_cpu", reason="needs torchvision importable beside torch's build")
import torchvision.models

CONVOLUTIONAL = {
    "resnet18": 64, "resnet50": 64, "mobilenet_v2": 64, "mobilenet_v3_large": 64,
    "mobilenet_v3_small": 64, "efficientnet_b0": 64, "shufflenet_v2_x1_0": 64,
    "regnet_y_400mf": 64, "densenet121": 64, "convnext_tiny": 64, "swin_t": 64, "vit_b_16": 224,
}  # fmt: skip


def built(name: str) -> torch.nn.Module:
    """The architecture with random weights and a head that is not zero."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(torchvision.models, name)(weights=None)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and not module.weight.any():
            torch.nn.init.normal_(module.weight, std=0.02)  # ViT's head starts at zero
    return model.eval()


# Sums of two quantized tensors are rounded once here and twice in ONNX Runtime.
RUNTIMES_AGREE_DB = 30


def check_engine(quantized: intact.QuantizedModel, feeds: Any) -> None:
    """intact's engine runs all of the model, and ONNX Runtime's results are the same."""
    if native is None:
        return
    found = quantized.run(feeds)
    assert quantized.runtime == "native", quantized.session.refusal
    assert quantized.session.elsewhere == ()
    other = intact.QuantizedModel(quantized.content, runtime="onnxruntime").run(feeds)
    for ours, theirs in zip(found, other, strict=True):
        assert sqnr_db(theirs, ours) > RUNTIMES_AGREE_DB


def check(
    prepared: intact.Prepared, test: Any, floor_db: float, integer: int
) -> dict[str, intact.QuantizedModel]:
    """Both modes keep the outputs within the floor and quantize `integer` operators or more."""
    exact = FloatModel(prepared.graph, prepared.signature)
    feeds = prepared.signature.bind_batch(test)
    expected = exact.run(feeds)[0]
    models = {}
    for mode in ("static", "dynamic"):
        quantized = intact.convert(prepared, mode=mode)  # type: ignore[arg-type]
        assert sqnr_db(expected, quantized.run(feeds)[0]) > floor_db, mode
        chosen = [d for d in quantized.decisions.values() if d["weights"] and d["mode"] != "float"]
        assert len(chosen) >= integer, mode
        check_engine(quantized, feeds)
        models[mode] = quantized
    return models


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_torchvision(name: str) -> None:
    model, size = built(name), CONVOLUTIONAL[name]
    prepared = intact.prepare(model, torch.randn(1, 3, size, size))
    prepared.calibrate([torch.randn(4, 3, size, size) for _ in range(2)])
    weighted = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    models = check(prepared, torch.randn(3, 3, size, size), 20, len(weighted))
    assert models["static"].size < 0.32 * models["static"].float_bytes


def block(inputs: int, outputs: int) -> torch.nn.Sequential:
    convolution = torch.nn.Conv2d(inputs, outputs, 3, padding=1)
    return torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(outputs), torch.nn.ReLU())


class UNet(torch.nn.Module):
    """Down twice and up twice, with the finer features beside the coarser ones.

    up: "transpose" for transposed convolutions, or a mode of torch's `interpolate`.
    """

    def __init__(self, up: str) -> None:
        super().__init__()
        self.up_mode = up
        self.fine, self.middle, self.coarse = block(3, 16), block(16, 24), block(24, 32)
        if up == "transpose":
            self.up = torch.nn.ModuleList(
                [torch.nn.ConvTranspose2d(32, 24, 2, 2), torch.nn.ConvTranspose2d(24, 16, 4, 2, 1)]
            )
        else:
            self.up = torch.nn.ModuleList([torch.nn.Conv2d(32, 24, 1), torch.nn.Conv2d(24, 16, 1)])
        self.merge = torch.nn.ModuleList([block(48, 24), block(32, 16)])
        self.head = torch.nn.Conv2d(16, 4, 1)

    def upward(self, x: torch.Tensor, step: int) -> torch.Tensor:
        x = self.up[step](x)
        if self.up_mode == "transpose":
            return x
        return torch.nn.functional.interpolate(x, scale_factor=2, mode=self.up_mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fine = self.fine(x)
        middle = self.middle(torch.nn.functional.max_pool2d(fine, 2))
        coarse = self.coarse(torch.nn.functional.max_pool2d(middle, 2))
        x = self.merge[0](torch.cat([self.upward(coarse, 0), middle], 1))
        x = self.merge[1](torch.cat([self.upward(x, 1), fine], 1))
        result: torch.Tensor = self.head(x)
        return result


@pytest.mark.parametrize("up", ["transpose", "nearest", "bilinear"])
def test_segmentation(up: str) -> None:
    torch.manual_seed(0)
    prepared = intact.prepare(UNet(up).eval(), torch.randn(1, 3, 32, 32))
    prepared.calibrate([torch.randn(4, 3, 32, 32) for _ in range(4)])
    check(prepared, torch.randn(3, 3, 32, 32), 20, 8)


@pytest.mark.parametrize(
    ("name", "shape"), [("rfb320_face", (1, 3, 240, 320)), ("resnet20_cifar10", (2, 3, 32, 32))]
)
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_downloaded_models(shared: Path, name: str, shape: tuple[int, ...], mode: Any) -> None:
    rng = np.random.default_rng(0)
    prepared = intact.prepare(shared / "models" / f"{name}.onnx")
    (image,) = prepared.signature.example()
    batches = [{image: rng.standard_normal(shape).astype(np.float32)} for _ in range(3)]
    prepared.calibrate(batches[:2])
    check_engine(intact.convert(prepared, mode=mode), batches[2])


def text_batch(size: int, length: int, vocabulary: int) -> dict[str, torch.Tensor]:
    mask = torch.ones(size, length, dtype=torch.long)
    mask[0, length // 2 :] = 0
    ids = torch.randint(0, vocabulary, (size, length))
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize(
    "kind", ["Albert", "Bert", "DistilBert", "Electra", "GPT2", "Llama", "OPT", "Roberta"]
)
def test_transformers_text(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "DistilBert": {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128},
        "GPT2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False,
                 "bos_token_id": 0, "eos_token_id": 0},
        "Llama": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                  "num_key_value_heads": 2, "intermediate_size": 128, "use_cache": False},
        "OPT": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
                "ffn_dim": 128, "word_embed_proj_dim": 64, "use_cache": False},
    }.get(kind, {"hidden_size": 64, "embedding_size": 64, "num_hidden_layers": 2,
                 "num_attention_heads": 4, "intermediate_size": 128})  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(vocab_size=100, **sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    example = text_batch(2, 6, 100)
    prepared = intact.prepare(
        model, example, dynamic_axes={name: {1: "length"} for name in example}
    )
    prepared.calibrate([text_batch(4, length, 100) for length in (5, 9, 12)])
    models = check(prepared, text_batch(3, 8, 100), 25, 8)
    batch = text_batch(2, 7, 100)
    result = models["static"](**batch)
    assert isinstance(result.last_hidden_state, torch.Tensor)
    assert result.last_hidden_state.shape == (2, 7, 64)


@pytest.mark.parametrize("kind", ["ViT", "ConvNext"])
def test_transformers_image(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes: dict[str, Any] = (
        {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
         "intermediate_size": 128, "image_size": 64, "patch_size": 16}
        if kind == "ViT"
        else {"hidden_sizes": [16, 32, 64, 64], "depths": [1, 1, 2, 1], "image_size": 64}
    )  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model = getattr(transformers, f"{kind}Model")(config).eval()
    prepared = intact.prepare(model, {"pixel_values": torch.randn(1, 3, 64, 64)})
    prepared.calibrate([{"pixel_values": torch.randn(4, 3, 64, 64)} for _ in range(2)])
    check(prepared, {"pixel_values": torch.randn(3, 3, 64, 64)}, 20, 10)


def test_transformer_does_not_see_its_batch_when_dynamic() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        vocab_size=100,
    )  # fmt: skip
    example = text_batch(2, 8, 100)
    quantized = intact.quantize(
        transformers.BertModel(config), example, mode="dynamic",
        dynamic_axes={name: {1: "length"} for name in example},
    )  # fmt: skip
    batch = text_batch(4, 8, 100)
    together = quantized(**batch).last_hidden_state
    alone = quantized(**{name: x[1:2] for name, x in batch.items()}).last_hidden_state
    np.testing.assert_allclose(together[1:2].numpy(), alone.numpy(), atol=1e-5)
