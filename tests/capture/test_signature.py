"""Binding the user's call to the model's inputs: what is accepted, and what each refusal says."""

import numpy as np
import pytest

from intact.capture.signature import Signature, TensorSpec
from intact.core.errors import InputError, ModelFileError

IDS = TensorSpec("ids", "int64", ("batch", "length"))
MASK = TensorSpec("mask", "bool", ("batch", "length"))
IMAGE = TensorSpec("image", "float32", ("batch", 3, 8, 8))
TWO = Signature.of_names([IDS, MASK], [TensorSpec("y", "float32", ("batch",))])
ONE = Signature.of_names([IMAGE], [TensorSpec("a", "float32", None), TensorSpec("b", "int64", ())])

ids, mask = np.zeros((2, 5), np.int64), np.ones((2, 5), bool)
image = np.zeros((2, 3, 8, 8), np.float32)


def test_by_position_by_name_and_mixed() -> None:
    for feeds in (TWO.bind(ids, mask), TWO.bind(mask=mask, ids=ids), TWO.bind(ids, mask=mask)):
        assert list(feeds) == ["ids", "mask"]
        assert feeds["ids"] is ids and feeds["mask"] is mask


def test_labels_behind_the_inputs_are_dropped() -> None:
    assert list(ONE.bind_batch((image, np.zeros(2)))) == ["image"]
    assert list(ONE.bind_batch([image])) == ["image"]
    assert list(ONE.bind_batch({"image": image, "labels": 1})) == ["image"]
    assert list(ONE.bind_batch(image)) == ["image"]


def test_integers_of_another_width_are_accepted() -> None:
    assert TWO.bind(ids.astype(np.int32), mask)["ids"].dtype == np.int64


def test_several_outputs_have_names_and_one_is_bare() -> None:
    outputs = ONE.restore([1, 2])
    assert outputs["a"] == outputs.a == outputs[0] == 1
    assert TWO.restore([7]) == 7
    with pytest.raises(AttributeError, match="no output 'c'; there are a, b"):
        _ = outputs.c


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ONE.bind(), "'image' is missing"),
        (lambda: ONE.bind(image, image), "takes 1 inputs"),
        (lambda: ONE.bind(picture=image), "no input 'picture'; it takes image"),
        (lambda: ONE.bind(image, image=image), "given twice"),
        (lambda: ONE.bind(image[0]), r"\(3, 8, 8\).*Add a batch axis"),
        (lambda: ONE.bind(image[:, :2]), "Make axis 1 3 long"),
        (lambda: ONE.bind(image.astype(np.float64)), "dtype float64.*float32"),
        (lambda: ONE.bind(image.astype(np.uint8)), "dtype uint8.*float32"),
        (lambda: ONE.bind("text"), "dtype <U4"),
        (lambda: ONE.bind(object()), "is a object, not a tensor"),
        (lambda: TWO.bind(ids, mask[:, :4]), "4 along 'length'.*'ids' has 5"),
        (lambda: ONE.bind_batch({"image": image, "other": 1}), "no input 'other'"),
    ],
)
def test_refusal_names_input_fault_and_cure(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call()


def test_json_round_trip() -> None:
    for signature in (ONE, TWO):
        assert Signature.from_json(signature.to_json()) == signature


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-5],
        lambda text: text.replace('"leaf": "image"', '"leaf": "other"'),
        lambda text: text.replace('"leaf": 1', '"leaf": 9'),
        lambda text: text.replace("float32", "float999"),
        lambda text: text.replace('"leaf": 0', '"pickle": 0'),
        lambda text: "[]",
    ],
)
def test_damaged_json_is_refused(damage) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ModelFileError, match="damaged"):
        Signature.from_json(damage(ONE.to_json()))
