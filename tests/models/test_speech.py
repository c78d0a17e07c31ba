"""Recurrent networks on real speech, quantized both ways, in intact's own engine.

An LSTM and a GRU classifier, trained here on spoken digits, and the two stages of DTLN.
"""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import intact
from benchmarks import datasets
from intact.core.native import native
from intact.evaluate.fidelity import sqnr_db
from tests.engine.build import needs_native

FRAMES, BANDS = 40, 48


def features(samples: Any) -> Any:
    """Log energies in frequency bands, FRAMES frames of 32 ms every 16 ms (silence behind)."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, 256)[::128][:FRAMES]
    power = np.abs(np.fft.rfft(frames * np.hanning(256)))[:, 1 : 1 + 2 * BANDS] ** 2
    bands = np.log10(power.reshape(len(frames), BANDS, 2).sum(-1) + 1e-6)
    return np.pad(bands, [(0, FRAMES - len(frames)), (0, 0)], constant_values=-6) / 3 + 1


class Classifier(nn.Module):
    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.rnn = kind(BANDS, 48, batch_first=True, bidirectional=True)
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(x)[0].mean(1))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_classifier(shared: Path, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
    with np.load(shared / "data/speech/digits_8khz.npz") as file:
        samples, offsets = file["samples"].astype(np.float32) / 32768, file["offsets"]
        labels, index = torch.tensor(file["labels"]).long(), file["index"]
    x = torch.tensor(
        np.stack([features(samples[a:b]) for a, b in itertools.pairwise(offsets)]),
        dtype=torch.float32,
    )
    train, test = torch.tensor(np.flatnonzero(index >= 5)), torch.tensor(np.flatnonzero(index < 5))
    torch.manual_seed(0)
    model = Classifier(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(6):
        for part in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), labels[part]).backward()
            optimizer.step()

    prepared = intact.prepare(model, x[:1])
    prepared.calibrate(x[train[torch.randperm(len(train))[:128]]].split(32))
    models = {mode: intact.convert(prepared, mode=mode) for mode in ("static", "dynamic")}
    name = kind.__name__
    assert {d["mode"] for d in models["dynamic"].decisions.values() if d["op_type"] == name} == {
        "dynamic"
    }
    if native is not None:
        for model_of_mode in models.values():
            model_of_mode(x[:2])
            assert model_of_mode.runtime == "native", model_of_mode.session.refusal
    data = [(x[part], labels[part]) for part in test.split(64)]
    comparison = intact.compare(model, models, data, metric="top1", repetitions=3)
    trained = comparison["float"].accuracy
    assert trained is not None and trained > 85
    for mode, floor_db in (("static", 30), ("dynamic", 25)):
        row = comparison[mode]
        assert row.drop is not None and row.drop <= 1.0
        assert row.fidelity[0].sqnr_db > floor_db
    assert comparison["dynamic"].batch_dependence == 0


@needs_native
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, True)])
def test_layers_of_pytorch_run_natively(
    kind: type[nn.LSTM] | type[nn.GRU], layers: int, bidirectional: bool
) -> None:
    """All states and the last ones, for several batches."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = kind(
                12, 20, num_layers=layers, batch_first=True, bidirectional=bidirectional
            )
            self.head = nn.Linear(20, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y, state = self.rnn(x)
            last = state[0] if isinstance(state, tuple) else state
            return y, self.head(last[-1])

    torch.manual_seed(0)
    model = Encoder().eval()
    samples = [torch.randn(4, 9, 12) for _ in range(8)]
    for mode in ("static", "dynamic"):
        quantized = intact.quantize(
            model, samples[0], mode=mode, calibration=samples if mode == "static" else None,
        )  # fmt: skip
        for batch in (4, 1, 3):
            x = torch.randn(batch, 9, 12)
            for found, wanted in zip(quantized(x), model(x), strict=True):
                assert found.shape == wanted.shape
                assert sqnr_db(wanted.detach().numpy(), found.numpy()) > 25
        assert quantized.runtime == "native", quantized.session.refusal


@needs_native
@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_dtln_runs_natively(shared: Path, stage: int, mode: Any) -> None:
    calibration, test = datasets.dtln(50, False)[stage - 1], datasets.dtln(50, True)[stage - 1]
    model = intact.quantize(
        shared / f"models/dtln_{stage}.onnx", mode=mode,
        calibration=calibration if mode == "static" else None,
    )  # fmt: skip
    theirs = intact.QuantizedModel(model.content, runtime="onnxruntime")
    results = [(model.run(feeds), theirs.run(feeds)) for feeds in test]
    assert model.runtime == "native", model.session.refusal
    for ours, others in zip(
        *(zip(*r, strict=True) for r in zip(*results, strict=True)), strict=True
    ):
        assert sqnr_db(np.stack(others), np.stack(ours)) > 50
