"""Accuracy on labelled data, batch by batch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from intact.core.errors import InputError

__all__ = ["Top1", "labels_of"]

_KEYS = ("label", "labels", "target", "targets")


@dataclass
class Top1:
    """The share of samples whose largest score is at their label, in percent."""

    correct: int = 0
    total: int = 0

    def add(self, scores: NDArray[Any], labels: NDArray[Any]) -> None:
        """Take one batch into account. Raises InputError if there are not as many labels."""
        predicted = scores.argmax(-1)
        if predicted.shape != labels.shape:
            raise InputError(
                f"the labels have shape {labels.shape}, but the model gives {predicted.shape} "
                'predictions; metric="top1" needs one label a prediction'
            )
        self.correct += int((predicted == labels).sum())
        self.total += labels.size

    @property
    def percent(self) -> float:
        """Top-1 accuracy in percent."""
        return 100 * self.correct / self.total


def labels_of(batch: Any) -> NDArray[Any]:
    """The labels of a batch: the item behind the inputs, or the one that is called so.

    Raises InputError if the batch holds none.
    """
    found = None
    if isinstance(batch, Mapping) or hasattr(batch, "keys"):
        found = next((batch[key] for key in _KEYS if key in batch), None)
    elif isinstance(batch, (tuple, list)) and len(batch) > 1:
        found = batch[-1]
    if found is None:
        raise InputError(
            'metric="top1" needs labels, but a batch holds none; give (inputs, labels) or a '
            'mapping with "labels"'
        )
    return np.asarray(found.detach().cpu().numpy() if hasattr(found, "detach") else found)
