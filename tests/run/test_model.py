"""Quantized models: saved, loaded in a fresh process, called like the user's own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

import intact
from intact.core.errors import InputError, ModelFileError, OutputPathError
from tests.calibrate.test_calibrate import IMAGES, cnn, text, tokens


@pytest.fixture(scope="module")
def quantized() -> intact.QuantizedModel:
    return intact.quantize(cnn(), calibration=[IMAGES])


def test_numpy_in_numpy_out_and_torch_in_torch_out(quantized: intact.QuantizedModel) -> None:
    from_numpy, from_torch = quantized(IMAGES), quantized(torch.from_numpy(IMAGES))
    assert isinstance(from_numpy, np.ndarray) and isinstance(from_torch, torch.Tensor)
    np.testing.assert_array_equal(from_numpy, from_torch.numpy())
    np.testing.assert_array_equal(from_numpy, quantized(image=IMAGES))


def test_saved_file_runs_in_a_fresh_process(
    quantized: intact.QuantizedModel, tmp_path: Path
) -> None:
    path = tmp_path / "model.int8.onnx"
    quantized.save(path)
    np.save(tmp_path / "x.npy", IMAGES)
    code = (
        "import sys, numpy, intact\n"
        "model = intact.load(sys.argv[1])\n"
        "assert 'torch' not in sys.modules\n"
        "numpy.save(sys.argv[3], model(numpy.load(sys.argv[2])))"
    )
    paths = [str(path), str(tmp_path / "x.npy"), str(tmp_path / "y.npy")]
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), quantized(IMAGES))


def test_saved_file_is_plain_onnx(quantized: intact.QuantizedModel, tmp_path: Path) -> None:
    quantized.save(tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    dynamic = intact.quantize(cnn(), mode="dynamic")
    onnx.checker.check_model(onnx.load_model_from_string(dynamic.content), full_check=True)


def test_loaded_model_knows_its_decisions(quantized: intact.QuantizedModel, tmp_path: Path) -> None:
    quantized.save(tmp_path / "model.onnx")
    loaded = intact.load(tmp_path / "model.onnx")
    assert loaded.decisions == quantized.decisions
    assert loaded.signature == quantized.signature
    assert loaded.target == "portable"
    assert "static" in repr(loaded)


def test_integer_inputs_pass_untouched() -> None:
    model = intact.quantize(text(), calibration=[tokens([3, 5, 7, 2, 6, 4, 8, 9], 9)])
    y = model(**tokens([4, 6], 6))
    assert y.shape == (2, 6, 4)
    with pytest.raises(InputError, match="'ids' has dtype float32"):
        model(np.zeros((1, 3), np.float32), np.ones((1, 3), np.int64))


@pytest.mark.parametrize("name", ["", "missing/model.onnx", "."])
def test_path_that_cannot_be_written(
    quantized: intact.QuantizedModel, tmp_path: Path, name: str
) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OutputPathError):
        quantized.save(tmp_path / name)
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_file_is_refused(quantized: intact.QuantizedModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    for content in (quantized.content[:-40], quantized.content[: len(quantized.content) // 2], b""):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"model\.onnx"):
            intact.load(path)


def test_damaged_metadata_is_refused(quantized: intact.QuantizedModel) -> None:
    for key in ("intact.signature", "intact.decisions"):
        proto = onnx.load_model_from_string(quantized.content)
        for entry in proto.metadata_props:
            if entry.key == key:
                entry.value = "{"
        with pytest.raises(ModelFileError, match="damaged"):
            intact.QuantizedModel(proto.SerializeToString())


def test_plan_can_be_edited_and_carried_out(tmp_path: Path) -> None:
    prepared = intact.prepare(cnn())
    prepared(IMAGES)
    plan = intact.plan(prepared)
    plan.save(tmp_path / "plan.json")
    again = intact.Plan.load(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json()
    assert intact.convert(prepared, plan=again).content == intact.convert(prepared).content
    edited = intact.Plan({n: d for n, d in plan.decisions.items() if d.op_type != "Gemm"})
    assert intact.convert(prepared, plan=edited).content != intact.convert(prepared).content
