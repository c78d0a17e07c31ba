"""Sessions of the engine: any number of them, threads, shapes and callers at once."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import intact
from tests.calibrate.test_calibrate import IMAGES, cnn
from tests.engine.build import needs_native

pytestmark = needs_native


@pytest.fixture(scope="module")
def content() -> bytes:
    return intact.quantize(cnn(), calibration=[IMAGES]).content


def test_any_number_of_threads_gives_the_same_bytes(content: bytes) -> None:
    results = [
        intact.QuantizedModel(content, threads, "native").run({"image": IMAGES})[0].tobytes()
        for threads in (1, 2, 3, 8)
    ]
    assert len(set(results)) == 1


def test_batches_of_any_size_run_and_do_not_mix(content: bytes) -> None:
    model = intact.QuantizedModel(content, 2, "native")
    whole = model.run({"image": IMAGES})[0]
    for size in (1, 3, 12):
        parts = [model.run({"image": IMAGES[i : i + size]})[0] for i in range(0, len(IMAGES), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_callers_of_one_and_of_several_sessions_do_not_disturb_each_other(content: bytes) -> None:
    models = [intact.QuantizedModel(content, threads, "native") for threads in (1, 2, 2)]
    expected = [models[0].run({"image": IMAGES[i : i + 2]})[0] for i in range(6)]

    def call(i: int) -> Any:
        return models[i % 3].run({"image": IMAGES[i % 6 : i % 6 + 2]})[0]

    with ThreadPoolExecutor(6) as pool:
        for i, result in enumerate(pool.map(call, range(300))):
            np.testing.assert_array_equal(result, expected[i % 6])


def test_more_shapes_than_are_kept_can_be_used(content: bytes) -> None:
    model = intact.QuantizedModel(content, 1, "native")
    images = np.repeat(IMAGES, 2, axis=0)
    for size in (*range(1, 20), 1, 2):
        assert len(model.run({"image": images[:size]})[0]) == size
