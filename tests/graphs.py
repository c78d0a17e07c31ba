"""Small graphs for tests, written as ONNX text, and the two ways that tests look at them."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from intact.choose.default import candidates
from intact.core.statistics import Statistics, TensorStatistics

Feeds = dict[str, NDArray[np.generic]]


def parse(text: str, **weights: NDArray[np.generic]) -> ir.Model:
    """A graph from ONNX text (opset 21); `weights` become its initializers."""
    header = '<ir_version: 10, opset_import: ["" : 21]>\n'
    proto = onnx.parser.parse_model(header + text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    model = ir.from_proto(proto)
    for node in model.graph:
        node.name = str(node.outputs[0].name)
    return model


def run(model: ir.Model, feeds: Feeds) -> list[NDArray[np.generic]]:
    """The model's outputs from ONNX Runtime."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def observe(model: ir.Model, batches: list[Feeds], names: tuple[str, ...] = ()) -> Statistics:
    """Statistics of the values `names`; without them, of those that calibration observes."""
    names = names or candidates(model.graph).observed
    values = {v.name: v for node in model.graph for v in node.outputs}
    watched = model.clone()
    extra = [name for name in names if name in values]
    inner = {v.name: v for node in watched.graph for v in node.outputs}
    watched.graph.outputs.extend(inner[name] for name in extra)
    gathered = Statistics.empty("test", names)
    nothing = {name: TensorStatistics() for name in gathered.names}
    for feeds in batches:
        results = run(watched, feeds)[len(model.graph.outputs) :]
        arrays = {**feeds, **dict(zip(extra, results, strict=True))}
        seen = {name: TensorStatistics.of(arrays[name]) for name in gathered.names}  # type: ignore[arg-type]
        gathered = gathered.merge(Statistics("test", (seen, nothing)))
    return gathered


def sqnr(reference: NDArray[np.generic], approximation: NDArray[np.generic]) -> float:
    """Signal to noise ratio in dB."""
    exact, close = reference.astype(np.float64), approximation.astype(np.float64)
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - close).sum()))
