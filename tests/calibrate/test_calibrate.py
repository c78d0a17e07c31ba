"""Calibration: the same samples give the same bytes, padding is left out, bad data is named."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

import intact
from intact.capture.onnx import capture
from intact.core.errors import CalibrationError, InputError, ModelFileError
from tests.graphs import parse

RNG = np.random.default_rng(0)

CNN = """m (float[batch,3,8,8] image) => (float[batch,2] y) {
    a = Conv <pads=[1,1,1,1]> (image, w1, b1)
    r = Relu (a)
    g = GlobalAveragePool (r)
    f = Flatten (g)
    y = Gemm (f, w2)
}"""
TEXT = """m (int64[batch,length] ids, int64[batch,length] attention_mask)
    => (float[batch,length,4] y) {
    e = Gather (table, ids)
    a = MatMul (e, w1)
    g = Gelu (a)
    y = MatMul (g, w2)
}"""
IMAGES = RNG.normal(size=(12, 3, 8, 8)).astype(np.float32)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


WEIGHTS = {"w1": normal(4, 3, 3, 3), "b1": normal(4), "w2": normal(4, 2)}
TABLE = {"table": normal(20, 4), "w1": normal(4, 8), "w2": normal(8, 4)}


def cnn() -> ir.Model:
    return parse(CNN, **WEIGHTS)


def text() -> ir.Model:
    return parse(TEXT, **TABLE)


def calibrated(model: ir.Model, batches: Any) -> intact.Prepared:
    prepared = intact.prepare(model)
    prepared.calibrate(batches)
    return prepared


def content(prepared: intact.Prepared, folder: Path) -> tuple[bytes, bytes]:
    """The bytes of the statistics and of the quantized model."""
    prepared.statistics.save(folder / "s.safetensors")
    return (folder / "s.safetensors").read_bytes(), intact.convert(prepared).content


def test_any_batching_and_order_gives_the_same_bytes(tmp_path: Path) -> None:
    expected = content(calibrated(cnn(), [IMAGES]), tmp_path)
    for size in (1, 5, 12):
        order = RNG.permutation(12)
        parts = [IMAGES[order[i : i + size]] for i in range(0, 12, size)]
        assert content(calibrated(cnn(), parts), tmp_path) == expected


def test_merged_shards_give_the_same_bytes(tmp_path: Path) -> None:
    whole = calibrated(cnn(), [IMAGES])
    shards = [calibrated(cnn(), [IMAGES[i::3]]).statistics for i in range(3)]
    for i, shard in enumerate(shards):
        shard.save(tmp_path / f"{i}.safetensors")
    loaded = [intact.Statistics.load(tmp_path / f"{i}.safetensors") for i in range(3)]
    for order in itertools.permutations(loaded):
        merged = order[0].merge(order[1]).merge(order[2])
        converted = intact.convert(intact.prepare(cnn()), statistics=merged)
        assert converted.content == intact.convert(whole).content


def test_method_can_change_without_the_data(tmp_path: Path) -> None:
    prepared = calibrated(cnn(), [IMAGES])
    prepared.statistics.save(tmp_path / "s.safetensors")
    again = intact.Statistics.load(tmp_path / "s.safetensors")
    for method in ("mse", "minmax", "percentile", "entropy"):
        assert (
            intact.convert(prepared, method=method).content
            == intact.convert(intact.prepare(cnn()), statistics=again, method=method).content
        )


def test_statistics_of_another_model_are_refused() -> None:
    other = parse(CNN, **{**WEIGHTS, "w2": WEIGHTS["w2"] * 2})
    statistics = calibrated(other, [IMAGES]).statistics
    with pytest.raises(CalibrationError, match="cannot be merged"):
        intact.convert(intact.prepare(cnn()), statistics=statistics)


def test_prepared_model_answers_like_the_float_model() -> None:
    prepared = intact.prepare(cnn())
    from intact.run.model import FloatModel

    expected = FloatModel(*capture(cnn()))(IMAGES)
    np.testing.assert_allclose(prepared(IMAGES), expected, atol=1e-5)
    assert prepared.statistics.samples == 12


def tokens(lengths: list[int], padded: int) -> dict[str, NDArray[np.int64]]:
    """Sentences whose token at each place depends on sentence and place only."""
    mask = np.array([[int(j < n) for j in range(padded)] for n in lengths])
    ids = np.array([[(7 * n + j) % 19 if j < n else 19 for j in range(padded)] for n in lengths])
    return {"ids": ids, "attention_mask": mask}


def test_padding_leaves_no_trace(tmp_path: Path) -> None:
    short = calibrated(text(), [tokens([3], 3), tokens([5], 5)])
    padded = calibrated(text(), [tokens([3, 5], 9)])
    assert content(short, tmp_path) == content(padded, tmp_path)


def test_padding_on_the_left_is_not_observed() -> None:
    table = TABLE["table"].copy()
    table[19] = 1000  # the padding token would widen every range
    model = parse(TEXT, **{**TABLE, "table": table})
    batch = tokens([3, 5], 6)
    flipped = {name: np.ascontiguousarray(array[:, ::-1]) for name, array in batch.items()}
    assert calibrated(model, [flipped]).statistics["e"].high < 100
    unmasked = intact.prepare(model, mask=None)
    unmasked.calibrate([flipped])
    assert unmasked.statistics["e"].high == 1000


def test_batches_of_different_lengths_calibrate_together() -> None:
    prepared = calibrated(text(), [tokens([2, 4], 4), tokens([7], 8)])
    assert prepared.statistics.samples == 3
    assert prepared.statistics["e"].count == (2 + 4 + 7) * 4


def test_outputs_keep_the_shape_of_the_padded_batch() -> None:
    prepared = intact.prepare(text())
    y = prepared(**tokens([2, 4], 6))
    assert y.shape == (2, 6, 4) and not y[0, 2:].any() and y[0, :2].any()


def test_max_samples_stops_early() -> None:
    prepared = intact.prepare(cnn())
    seen: list[int] = []
    prepared.calibrate(([IMAGES[i : i + 2]] for i in range(0, 12, 2)), 5, seen.append)
    assert prepared.statistics.samples == 6 and seen == [2, 4, 6]


def test_memory_does_not_grow_with_the_data() -> None:
    few, many = (calibrated(cnn(), [IMAGES] * n).statistics for n in (1, 20))
    assert many.samples == 20 * few.samples
    for name in few.names:
        assert many[name].counts.size == few[name].counts.size


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], CalibrationError, "calibration data is empty"),
        (iter(()), CalibrationError, "calibration data is empty"),
        ([IMAGES[:0]], InputError, "batch 0: input 'image' has a batch of 0 samples"),
        ([IMAGES, IMAGES[0]], InputError, "batch 1: input 'image' has shape"),
        ([IMAGES[:, :2]], InputError, "batch 0: .*Make axis 1 3 long"),
        ([IMAGES.astype(np.float64)], InputError, "batch 0: .*dtype float64"),
        ([{"picture": IMAGES}], InputError, "no input 'picture'"),
        ([np.full_like(IMAGES, np.nan)], InputError, "'image' holds NaN or infinity"),
        ([np.full_like(IMAGES, np.inf)], InputError, "'image' holds NaN or infinity"),
        ([np.full_like(IMAGES, 3e38)], CalibrationError, "activation '.*': a value is"),
    ],
)
def test_bad_data_is_named(data: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        intact.quantize(cnn(), calibration=data)


def test_bad_batch_leaves_no_trace() -> None:
    prepared = calibrated(cnn(), [IMAGES])
    before = prepared.statistics
    bad = IMAGES.copy()
    bad[3] = 3e38
    with pytest.raises(CalibrationError):
        prepared(bad)
    assert prepared.statistics is before


def test_constant_activation_is_named() -> None:
    with pytest.raises(CalibrationError, match="'image' has the value 0"):
        intact.quantize(cnn(), calibration=[np.zeros_like(IMAGES)])


def test_static_without_data_is_refused() -> None:
    with pytest.raises(CalibrationError, match="needs calibration data"):
        intact.quantize(cnn())
    with pytest.raises(CalibrationError, match="nothing has been observed"):
        intact.convert(intact.prepare(cnn()))


def test_mask_that_is_no_input_is_refused() -> None:
    with pytest.raises(InputError, match="'nothing' is not an input"):
        intact.quantize(text(), calibration=[tokens([3], 3)], mask="nothing")


def test_mask_that_hides_everything_is_refused() -> None:
    with pytest.raises(InputError, match="hides every position"):
        intact.quantize(text(), calibration=[tokens([3, 0], 3)])


def test_statistics_file_that_is_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(ir.to_proto(cnn()).SerializeToString())
    with pytest.raises(ModelFileError, match=r"model\.onnx"):
        intact.Statistics.load(path)
