"""How near a quantized model's outputs are to the float model's; needs no labels."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Fidelity", "agreement", "cosine", "sqnr_db"]

Array = NDArray[Any]


def sqnr_db(reference: Array, approximation: Array) -> float:
    """Signal to quantization noise in dB: `10 log10(sum(x^2) / sum((x - y)^2))`; inf if equal."""
    return _decibels(*_powers(reference, approximation))


def cosine(reference: Array, approximation: Array) -> float:
    """The mean over samples (first axis) of the cosine between flattened outputs."""
    total, count = _cosines(reference, approximation)
    return total / count if count else math.nan


def agreement(reference: Array, approximation: Array) -> float:
    """The share of rows whose largest entry (last axis) is the same."""
    same = reference.argmax(-1) == approximation.argmax(-1)
    return float(same.mean())


@dataclass
class Fidelity:
    """Fidelity of one output, gathered batch by batch.

    classes: whether the output looks like scores of classes, so that agreement has a meaning.
    """

    signal: float = 0.0
    noise: float = 0.0
    cosine_sum: float = 0.0
    samples: int = 0
    agreed: int = 0
    rows: int = 0
    largest_error: float = 0.0
    classes: bool = True

    def add(self, reference: Array, approximation: Array) -> None:
        """Take one batch into account."""
        signal, noise = _powers(reference, approximation)
        self.signal += signal
        self.noise += noise
        total, count = _cosines(reference, approximation)
        self.cosine_sum += total
        self.samples += count
        difference = np.abs(reference.astype(np.float64) - approximation)
        self.largest_error = max(self.largest_error, float(difference.max(initial=0.0)))
        self.classes &= reference.ndim == 2 and reference.shape[-1] > 1
        if self.classes:
            self.agreed += int((reference.argmax(-1) == approximation.argmax(-1)).sum())
            self.rows += len(reference)

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise of all batches together, in dB."""
        return _decibels(self.signal, self.noise)

    @property
    def cosine(self) -> float:
        """Mean cosine over samples."""
        return self.cosine_sum / self.samples if self.samples else math.nan

    @property
    def agreement(self) -> float | None:
        """Share of samples with the float model's class; None if the output holds no classes."""
        return self.agreed / self.rows if self.classes and self.rows else None


def _powers(reference: Array, approximation: Array) -> tuple[float, float]:
    if reference.shape != approximation.shape:
        raise ValueError(f"outputs have shapes {reference.shape} and {approximation.shape}")
    exact, close = reference.astype(np.float64), approximation.astype(np.float64)
    return float(np.square(exact).sum()), float(np.square(exact - close).sum())


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _cosines(reference: Array, approximation: Array) -> tuple[float, int]:
    """The sum of the samples' cosines and their number; a sample of zeros has none."""
    rows = len(reference) if reference.ndim else 1
    exact = reference.reshape(rows, -1).astype(np.float64)
    close = approximation.reshape(rows, -1).astype(np.float64)
    lengths = np.linalg.norm(exact, axis=1) * np.linalg.norm(close, axis=1)
    defined = lengths > 0
    cosines = (exact * close).sum(axis=1)[defined] / lengths[defined]
    return float(cosines.sum()), int(defined.sum())
