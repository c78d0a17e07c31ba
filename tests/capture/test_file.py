"""A file split into its large weights and the rest is the same as one that is parsed whole."""

import random

import numpy as np
import onnx
import pytest
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from intact.capture.file import read_model, skeleton
from tests.engine.build import Array


def model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    tensors = {
        "large": rng.standard_normal((40, 50)).astype(np.float32),
        "bytes": rng.integers(-128, 128, (90, 70)).astype(np.int8),
        "whole": rng.integers(-9, 9, 3000),
        "half": rng.standard_normal(5000).astype(np.float16),
        "small": np.arange(5),
        "empty": np.zeros((0, 3), np.float32),
    }
    constants = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    constants.append(helper.make_tensor("listed", 1, [2000], np.ones(2000)))
    nodes = [helper.make_node("Add", ["large", "x"], ["y"], "add")]
    x, y = (helper.make_tensor_value_info(name, 1, [40, 50]) for name in "xy")
    graph = helper.make_graph(nodes, "g", [x], [y], constants, value_info=[
        helper.make_tensor_value_info("between", 7, [1])
    ])  # fmt: skip
    proto = helper.make_model(graph)
    helper.set_model_props(proto, {"intact.target": "portable"})
    return proto


def weights(content: bytes) -> dict[str, Array]:
    proto, views = skeleton(content)
    rest = [t for t in proto.graph.initializer if t.name not in views]
    return views | {tensor.name: numpy_helper.to_array(tensor) for tensor in rest}


def expected(content: bytes) -> dict[str, Array]:
    proto = onnx.ModelProto()
    proto.ParseFromString(content)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def test_weights_are_views_of_the_file() -> None:
    content = model().SerializeToString()
    proto, views = skeleton(content)
    assert set(views) == {"large", "bytes", "whole", "half"}
    begin = np.frombuffer(content, np.uint8).ctypes.data
    for view in views.values():
        assert begin <= view.ctypes.data < begin + len(content)
    assert proto.ByteSize() < len(content) / 2
    for name, array in weights(content).items():
        np.testing.assert_array_equal(array, expected(content)[name], strict=True)


def test_the_graph_is_the_same() -> None:
    proto = model()
    graph = read_model(proto.SerializeToString())
    assert graph.metadata_props["intact.target"] == "portable"
    assert [node.name for node in graph.graph] == ["add"]
    assert {str(v.name) for v in graph.graph.inputs} == {"x"}
    for tensor in proto.graph.initializer:
        held = graph.graph.initializers[tensor.name].const_value
        assert held is not None
        np.testing.assert_array_equal(held.numpy(), numpy_helper.to_array(tensor))


def test_a_file_in_two_parts_is_parsed_whole() -> None:
    """Protobuf merges what is written one after the other."""
    first, second = model(), onnx.ModelProto()
    second.graph.initializer.append(numpy_helper.from_array(np.ones(3000, np.float32), "more"))
    content = first.SerializeToString() + second.SerializeToString()
    assert skeleton(content)[1] == {}
    assert "more" in weights(content)


def test_twins_are_parsed_whole() -> None:
    proto = model()
    proto.graph.initializer.append(proto.graph.initializer[0])
    assert skeleton(proto.SerializeToString())[1] == {}


@pytest.mark.parametrize("seed", range(5))
def test_damaged_files_are_read_as_protobuf_reads_them(seed: int) -> None:
    rng, content = random.Random(seed), model().SerializeToString()
    read = 0
    for _ in range(100):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(damaged)) if rng.random() < 0.3 else rng.randrange(150)
            damaged[-at if rng.random() < 0.5 else at] = rng.randrange(256)
        if rng.random() < 0.2:
            del damaged[rng.randrange(len(damaged)) :]
        try:
            arrays = expected(bytes(damaged))
        except DecodeError:
            with pytest.raises(DecodeError):
                skeleton(bytes(damaged))
            continue
        except Exception:  # a tensor that holds other than it says
            skeleton(bytes(damaged))
            continue
        found = weights(bytes(damaged))
        assert found.keys() == arrays.keys()
        for name, array in found.items():
            np.testing.assert_array_equal(array, arrays[name], strict=True)
        read += 1
    assert read > 10
