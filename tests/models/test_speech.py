"""An LSTM and a GRU classifier, trained here on real spoken digits, quantized both ways."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import intact

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
    data = [(x[part], labels[part]) for part in test.split(64)]
    comparison = intact.compare(model, models, data, metric="top1", repetitions=3)
    trained = comparison["float"].accuracy
    assert trained is not None and trained > 85
    for mode, floor_db in (("static", 30), ("dynamic", 25)):
        row = comparison[mode]
        assert row.drop is not None and row.drop <= 1.0
        assert row.fidelity[0].sqnr_db > floor_db
    assert comparison["dynamic"].batch_dependence == 0
