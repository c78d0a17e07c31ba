"""A prepared model: call it on data and it remembers what it sees."""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Literal

import onnx_ir as ir

from intact.calibrate.adequacy import Adequacy, adequacy
from intact.calibrate.collect import Collector, fingerprint
from intact.calibrate.samples import DEFAULT_MASK
from intact.capture.signature import Signature
from intact.core.errors import CalibrationError
from intact.core.ranges import Method
from intact.core.statistics import Statistics

__all__ = ["Prepared"]


class Prepared:
    """A float model that observes its activations: calling it is calibration.

    graph: the prepared float graph; signature: how the user calls the model.
    observed: the values whose statistics are gathered.
    """

    def __init__(
        self,
        graph: ir.Model,
        signature: Signature,
        observed: tuple[str, ...],
        mask: str | Literal["auto"] | None = "auto",
        threads: int | None = None,
    ) -> None:
        self.graph = graph
        self.signature = signature
        self.observed = observed
        self._mask = _find_mask(signature) if mask == "auto" else mask
        self._threads = threads
        self._collector: Collector | None = None

    @property
    def statistics(self) -> Statistics:
        """What has been observed so far; a value that later calls do not change."""
        return self._running.statistics

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the float model on one batch, called as the user's model is, and observe it.

        Returns what the float model returns, as arrays (or torch tensors for torch input).
        Raises InputError for bad input and CalibrationError where an activation is not finite.
        """
        feeds = self.signature.bind(*args, **kwargs)
        return self.signature.restore(self._running.observe(feeds))

    def calibrate(
        self,
        data: Iterable[Any],
        max_samples: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Observe every batch of `data`, in one pass.

        data: batches in any form that `Signature.bind_batch` takes.
        max_samples: stop after at least this many samples.
        progress: called with the number of samples observed so far.
        Raises CalibrationError if there is no data.
        """
        before = self.statistics.samples
        samples = before
        for samples in self._running.stream(data):
            if progress is not None:
                progress(samples - before)
            if max_samples is not None and samples - before >= max_samples:
                break
        if samples == before:
            raise CalibrationError(
                "the calibration data is empty; give at least one batch (an iterator that has "
                "been used up already is empty too)"
            )

    def adequacy(self, method: Method = "mse", tolerance: float = 0.25) -> Adequacy:
        """Whether what was observed is enough; see `calibrate.adequacy`."""
        return adequacy(self.statistics, method, tolerance)

    @cached_property
    def model_id(self) -> str:
        """The fingerprint of the graph that statistics carry."""
        return fingerprint(self.graph)

    @property
    def _running(self) -> Collector:
        # Made on first use: dynamic quantization never needs the session.
        if self._collector is None:
            self._collector = Collector(
                self.graph, self.signature, self.observed, self.model_id, self._mask, self._threads
            )
        return self._collector


def _find_mask(signature: Signature) -> str | None:
    """The attention mask among the inputs, if there is one of shape (batch, positions)."""
    for spec in signature.inputs:
        if spec.name == DEFAULT_MASK and len(spec.dims) == 2:
            return spec.name
    return None
