"""ONNX Runtime's own quantization, as its documentation recommends it, for comparison."""

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

Feeds = Mapping[str, NDArray[Any]]
Run = Callable[[Feeds], list[NDArray[Any]]]


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        feeds = next(self._feeds, None)
        return None if feeds is None else dict(feeds)


def session(content: bytes, threads: int = 2) -> ort.InferenceSession:
    """A session as a user would open it, but silent."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def static(
    model: onnx.ModelProto,
    feeds: Iterable[Feeds],
    method: str = "MinMax",
    qoperator: bool = False,
    **extra: object,
) -> bytes:
    """`quantize_static`: QDQ or QOperator, uint8 activations, int8 weights per channel."""
    with tempfile.TemporaryDirectory() as folder:
        source, clean, result = (str(Path(folder) / f"{n}.onnx") for n in ("a", "b", "c"))
        onnx.save(model, source)
        quant_pre_process(source, clean, skip_symbolic_shape=True)
        quantize_static(
            clean, result, _Reader(feeds), per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, calibrate_method=getattr(CalibrationMethod, method),
            quant_format=QuantFormat.QOperator if qoperator else QuantFormat.QDQ,
            **extra,
        )  # fmt: skip
        return Path(result).read_bytes()


def dynamic(model: onnx.ModelProto, per_channel: bool = True) -> bytes:
    """`quantize_dynamic` with int8 weights."""
    with tempfile.TemporaryDirectory() as folder:
        source, result = str(Path(folder) / "a.onnx"), str(Path(folder) / "c.onnx")
        onnx.save(model, source)
        quantize_dynamic(source, result, per_channel=per_channel, weight_type=QuantType.QInt8)
        return Path(result).read_bytes()


def nncf(model: Path, feeds: Sequence[Feeds], output: Path) -> None:
    """NNCF's post-training quantization for OpenVINO, as its documentation recommends it."""
    import nncf as library
    import openvino as ov

    graph = ov.Core().read_model(model)
    shapes = {name: array.shape for name, array in feeds[0].items()}
    graph.reshape({name: [-1, *shape[1:]] for name, shape in shapes.items()})
    transformer = {"model_type": library.ModelType.TRANSFORMER} if "input_ids" in shapes else {}
    quantized = library.quantize(
        graph, library.Dataset(feeds), subset_size=len(feeds),
        preset=library.QuantizationPreset.PERFORMANCE, **transformer,
    )  # fmt: skip
    ov.save_model(quantized, output, compress_to_fp16=False)


def openvino(path: Path, threads: int, feeds: Feeds) -> Run:
    """A runner of a model in OpenVINO, compiled for the shapes of `feeds`, tuned for latency."""
    import openvino as ov

    core = ov.Core()
    graph = core.read_model(path)
    graph.reshape({name: list(array.shape) for name, array in feeds.items()})
    compiled = core.compile_model(
        graph, "CPU", {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    )
    request = compiled.create_infer_request()

    def run(given: Feeds) -> list[NDArray[Any]]:
        results = request.infer(given, share_inputs=True)
        return [results[i] for i in range(len(compiled.outputs))]

    return run
