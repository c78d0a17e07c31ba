"""Streaming data through the float model and remembering each activation's statistics.

One pass in constant memory. Samples run one at a time, whatever the batches are, because a float
runtime may round differently at another batch size; so the statistics of the same samples are the
same bytes in any order, batching or sharding.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from intact.calibrate.samples import Array, Feeds, Sample, join, split
from intact.capture.signature import Signature
from intact.core.errors import CalibrationError, IntactError
from intact.core.machine import cores
from intact.core.statistics import Statistics, TensorStatistics

__all__ = ["Collector", "fingerprint"]


def fingerprint(graph: ir.Model) -> str:
    """A hash of the graph and its weights: statistics belong to one graph."""
    return hashlib.sha256(ir.to_proto(graph).SerializeToString(deterministic=True)).hexdigest()[:16]


_Taken = Future[tuple[list[Array], Statistics]]


class Collector:
    """Runs the float model and gathers statistics of the values `names`.

    model_id: the fingerprint of the graph.
    mask: the input that is 0 at padding positions, None if there is none.
    threads: number of threads, None for all cores.
    """

    def __init__(
        self,
        graph: ir.Model,
        signature: Signature,
        names: Sequence[str],
        model_id: str,
        mask: str | None = None,
        threads: int | None = None,
    ) -> None:
        self._signature = signature
        self._names = tuple(names)
        self._mask = mask
        self._shapes = _shapes(graph, self._names)
        self._session = _session(graph, self._names)
        self._inputs = {spec.name for spec in signature.inputs} & set(self._names)
        self._fetched = tuple(name for name in self._names if name not in self._inputs)
        self.statistics = Statistics.empty(model_id, self._names)
        # Samples run side by side, one thread each, so no thread waits for another and a sample's
        # arithmetic does not depend on their number.
        self._workers = threads or cores()
        self._runners = ThreadPoolExecutor(self._workers, "intact-calibrate")

    def observe(self, feeds: Feeds) -> list[Array]:
        """Observe one batch and return the float model's outputs for it.

        Raises InputError for bad input and CalibrationError, naming the tensor, where an
        activation is NaN or infinite; a batch that raises leaves no trace in the statistics.
        """
        samples = list(split(feeds, self._signature.inputs, self._mask))
        outputs, gathered = [], self.statistics
        for results, description in self._runners.map(self._take, samples):
            outputs.append(results)
            gathered = gathered.merge(description)
        self.statistics = gathered
        return join(outputs, samples, self._signature.outputs)

    def stream(self, batches: Iterable[Any]) -> Iterator[int]:
        """Observe batch after batch, in any form that `Signature.bind_batch` takes.

        Yields the number of samples observed so far, each time a batch is done. A few batches are
        on their way at a time, so that no worker waits. Raises as `observe` does, naming the batch.
        """
        under_way: deque[list[_Taken]] = deque()
        done = 0
        for i, batch in enumerate(batches):
            try:
                feeds = self._signature.bind_batch(batch)
                samples = list(split(feeds, self._signature.inputs, self._mask))
            except IntactError as error:
                while under_way:
                    self._commit(under_way.popleft(), done)
                    done += 1
                raise type(error)(f"calibration batch {i}: {error}") from None
            under_way.append([self._runners.submit(self._take, s) for s in samples])
            while len(under_way) > 2 * self._workers + 2:
                self._commit(under_way.popleft(), done)
                done += 1
                yield self.statistics.samples
        while under_way:
            self._commit(under_way.popleft(), done)
            done += 1
            yield self.statistics.samples

    def _commit(self, batch: list[_Taken], index: int) -> None:
        """Take a finished batch into the statistics."""
        gathered = self.statistics
        try:
            for future in batch:
                gathered = gathered.merge(future.result()[1])
        except IntactError as error:
            raise type(error)(f"calibration batch {index}: {error}") from None
        self.statistics = gathered

    def _take(self, sample: Sample) -> tuple[list[Array], Statistics]:
        """A sample's outputs and its statistics."""
        outputs: list[Array] = self._session.run(None, dict(sample.feeds))
        count = len(self._signature.outputs)
        values = dict(zip(self._fetched, outputs[count:], strict=True))
        values |= {name: sample.feeds[name] for name in self._inputs}
        return outputs[:count], self._describe(sample, values)

    def _describe(self, sample: Sample, values: dict[str, Array]) -> Statistics:
        """The statistics of one sample."""
        nothing = {name: TensorStatistics() for name in self.statistics.names}
        observed = {}
        for name in self.statistics.names:
            try:
                observed[name] = TensorStatistics.of(self._unmasked(name, values[name], sample))
            except CalibrationError as error:
                raise CalibrationError(
                    f"activation '{name}': {error}; the float model itself overflows or divides "
                    "by zero on this sample, so remove the sample or mend the model"
                ) from None
        halves = (observed, nothing) if sample.half == 0 else (nothing, observed)
        return Statistics(self.statistics.model, halves)

    def _unmasked(self, name: str, array: Array, sample: Sample) -> NDArray[np.float32]:
        """The array's values at positions that hold data, as float32."""
        if sample.positions is not None:
            for axis, dim in enumerate(self._shapes[name]):
                if dim == (sample.axis or sample.length):
                    array = array.take(sample.positions, axis)
        return array.astype(np.float32, copy=False)


def _shapes(graph: ir.Model, names: Iterable[str]) -> dict[str, tuple[int | str | None, ...]]:
    values = {v.name: v for v in graph.graph.inputs}
    values |= {v.name: v for node in graph.graph for v in node.outputs}
    return {
        name: tuple(d if isinstance(d, int) else d.value for d in shape)
        if (shape := values[name].shape) is not None
        else ()
        for name in names
    }


def _session(graph: ir.Model, names: Sequence[str]) -> ort.InferenceSession:
    """A session of the float model, one thread a run, that also returns the values `names`."""
    values = {v.name: v for node in graph.graph for v in node.outputs}
    inputs = {v.name for v in graph.graph.inputs}
    extra = [values[name] for name in names if name not in inputs]
    before = len(graph.graph.outputs)
    graph.graph.outputs.extend(extra)
    try:
        content = ir.to_proto(graph).SerializeToString()
    finally:
        del graph.graph.outputs[before:]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
