"""ONNX files that must be refused with one clear error, or read with care."""

from pathlib import Path

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.parser
import onnxruntime as ort
import pytest

from intact.capture.onnx import capture
from intact.core.errors import InputError, ModelFileError

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
m (float[n,4] x) => (float[n,2] y) { y = MatMul (x, w) }"""


def model() -> onnx.ModelProto:
    proto = onnx.parser.parse_model(TEXT)
    weight = np.arange(8, dtype=np.float32).reshape(4, 2)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return proto


def external(folder: Path, location: str) -> Path:
    """A model whose weight claims to lie at `location`."""
    proto = model()
    tensor = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path = folder / "model.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def test_external_data_beside_the_file_is_read(tmp_path: Path) -> None:
    graph, _ = capture(external(tmp_path, "weights.bin"))
    weight = graph.graph.initializers["w"].const_value
    assert weight is not None
    np.testing.assert_array_equal(weight.numpy().reshape(-1), np.arange(8))


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "a/../../weights.bin", ""])
def test_external_data_elsewhere_is_refused(tmp_path: Path, location: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "weights.bin").write_bytes(bytes(32))
    with pytest.raises(ModelFileError, match="outside its own directory"):
        capture(external(folder, location))


def test_external_data_behind_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(32))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ModelFileError, match="outside its own directory"):
        capture(external(folder, "link.bin"))


def test_missing_external_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"gone\.bin"):
        capture(external(tmp_path, "gone.bin"))


@pytest.mark.parametrize("size", [0, 1, 40, 100])
def test_truncated_file_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model().SerializeToString()[:size])
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        capture(path)


@pytest.mark.parametrize("content", [b"PK\x03\x04" + bytes(200), b"\x80\x05}q\x00.", b"hello"])
def test_file_that_is_not_onnx_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not an? (valid )?ONNX"):
        capture(path)


def test_missing_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="does not exist"):
        capture(tmp_path / "none.onnx")
    with pytest.raises(ModelFileError, match="cannot be read"):
        capture(tmp_path)


def test_quantized_model_is_refused() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        m (float[n,4] x) => (float[n,4] y) {
            scale = Constant <value = float {0.5}> ()
            point = Constant <value = uint8 {0}> ()
            q = QuantizeLinear (x, scale, point)
            y = DequantizeLinear (q, scale, point)
        }"""
    )
    with pytest.raises(ModelFileError, match="already quantized.*QuantizeLinear"):
        capture(proto)


def test_invalid_graph_is_refused() -> None:
    proto = model()
    proto.graph.node[0].input[0] = "nothing"
    with pytest.raises(ModelFileError, match="not a valid ONNX model"):
        capture(proto)


def test_axes_can_be_opened_by_request() -> None:
    proto = model()
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    proto.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    _, fixed = capture(proto)
    _, open_ = capture(proto, {"x": {0: "batch"}})
    assert fixed.inputs[0].shape == (1, 4)
    assert open_.inputs[0].shape == ("batch", 4) and open_.outputs[0].shape == ("batch", 2)
    with pytest.raises(InputError, match="'z'"):
        capture(proto, {"z": {0: "batch"}})
    with pytest.raises(InputError, match="no axis 5"):
        capture(proto, {"x": {5: "batch"}})


@pytest.mark.parametrize("name", ["rfb320_face", "dtln_1", "dtln_2", "resnet20_cifar10"])
def test_old_files_compute_the_same_at_opset_21(shared: Path, name: str) -> None:
    path = shared / "models" / f"{name}.onnx"
    graph, signature = capture(path)
    assert graph.opset_imports[""] >= 21
    options = ort.SessionOptions()
    options.log_severity_level = 3
    rng = np.random.default_rng(0)
    feeds = {
        spec.name: rng.normal(
            size=[d if isinstance(d, int) else 2 for d in spec.shape or ()]
        ).astype(np.float32)
        for spec in signature.inputs
    }
    before, after = (
        ort.InferenceSession(m, options, providers=["CPUExecutionProvider"]).run(None, feeds)
        for m in (path.read_bytes(), onnx.ModelProto.SerializeToString(_proto(graph)))
    )
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-4)


def _proto(graph):  # type: ignore[no-untyped-def]
    import onnx_ir as ir

    return ir.to_proto(graph)
