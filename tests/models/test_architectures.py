"""Every architecture that users bring: captured and quantized both ways, and still itself."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import intact
from intact.core.native import native as engine
from intact.evaluate.fidelity import sqnr_db
from intact.run.model import FloatModel

pytest.importorskip("torchvision_cpu", reason="needs torchvision importable beside torch's build")
import torchvision.models

CONVOLUTIONAL = {
    "resnet18": 64, "resnet50": 64, "mobilenet_v2": 64, "mobilenet_v3_large": 64,
    "mobilenet_v3_small": 64, "efficientnet_b0": 64, "shufflenet_v2_x1_0": 64,
    "regnet_y_400mf": 64, "densenet121": 64, "convnext_tiny": 64, "swin_t": 64, "vit_b_16": 224,
}  # fmt: skip
TRANSFORMERS = ("convnext_tiny", "swin_t", "vit_b_16")


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


def check(
    prepared: intact.Prepared, test: Any, floor_db: float, integer: int, native: bool = False
) -> dict[str, intact.QuantizedModel]:
    """Both modes keep the outputs within the floor and quantize `integer` operators or more.

    native: whether the engine runs all of it.
    """
    exact = FloatModel(prepared.graph, prepared.signature)
    feeds = prepared.signature.bind_batch(test)
    expected = exact.run(feeds)[0]
    models = {}
    for mode in ("static", "dynamic"):
        quantized = intact.convert(prepared, mode=mode)  # type: ignore[arg-type]
        assert sqnr_db(expected, quantized.run(feeds)[0]) > floor_db, mode
        chosen = [d for d in quantized.decisions.values() if d["weights"] and d["mode"] != "float"]
        assert len(chosen) >= integer, mode
        if native and engine is not None:
            assert quantized.runtime == "native", quantized.session.refusal
            assert quantized.session.elsewhere == ()
        models[mode] = quantized
    return models


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_torchvision(name: str) -> None:
    model, size = built(name), CONVOLUTIONAL[name]
    prepared = intact.prepare(model, torch.randn(1, 3, size, size))
    prepared.calibrate([torch.randn(4, 3, size, size) for _ in range(2)])
    weighted = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    native = name in TRANSFORMERS
    models = check(prepared, torch.randn(3, 3, size, size), 20, len(weighted), native)
    assert models["static"].size < 0.32 * models["static"].float_bytes


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
    models = check(prepared, text_batch(3, 8, 100), 25, 8, native=True)
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
    check(prepared, {"pixel_values": torch.randn(3, 3, 64, 64)}, 20, 10, native=True)


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
