"""Preparation keeps what a model computes: on small graphs, one property at a time."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from intact.capture.onnx import capture
from intact.graph.prepare import prepare
from tests.graph.equivalence import operators, prepared
from tests.graphs import Feeds, parse

RNG = np.random.default_rng(0)
IMAGE: Feeds = {"x": RNG.normal(size=(2, 4, 9, 9)).astype(np.float32)}
ROWS: Feeds = {"x": RNG.normal(size=(3, 5)).astype(np.float32)}
W = RNG.normal(size=(4, 4, 3, 3)).astype(np.float32)


def content(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)


def test_the_given_model_stays_as_it_is() -> None:
    model = parse(
        """m (float[n,4,9,9] x) => (float[n,4,7,7] y) {
            a = Conv (x, w) b = Mul (a, s) c = Identity (b) y = Relu (c)
        }""",
        w=W,
        s=np.array(2, np.float32),
    )
    before = content(model)
    assert operators(prepare(model)) == ["Conv", "Relu"]
    assert content(model) == before


def test_constants_identities_dropout_and_dead_code_go() -> None:
    model = parse(
        """m (float[n,5] x) => (float[n,5] y) {
            k = Constant <value_floats=[1.0, 2.0, 3.0, 4.0, 5.0]> ()
            k2 = Add (k, k)
            a = Identity (x)
            b, mask = Dropout (a)
            dead = Sin (b)
            y = Mul (b, k2)
        }""",
        unused=W,
    )
    result = prepared(model, ROWS)
    assert operators(result) == ["Mul"]
    (name,) = result.graph.initializers
    np.testing.assert_array_equal(
        result.graph.initializers[name].const_value.numpy(), [2, 4, 6, 8, 10]
    )


def test_outputs_that_are_inputs_constants_or_each_other_stay_outputs() -> None:
    model = parse(
        """m (float[n,5] x) => (float[n,5] p, float[2] q, float[n,5] r, float[n,5] s) {
            p = Identity (x) q = Add (c, c) r = Relu (x) s = Relu (x)
        }""",
        c=np.ones(2, np.float32),
    )
    prepared(model, ROWS)


def test_a_large_constant_is_not_stored_where_it_is_quickly_computed() -> None:
    model = parse(
        "m (float[n,5] x) => (float[n,5] y, float[900,900] z) { y = Relu (x) z = Expand (c, s) }",
        c=np.ones(1, np.float32),
        s=np.array([900, 900]),
    )
    assert len(content(prepared(model, ROWS))) < 1000


def test_what_is_computed_from_large_weights_is_stored() -> None:
    model = parse(
        "m (float[n,5] x) => (float[n,70000] y) { t = Transpose (w) y = MatMul (x, t) }",
        w=RNG.normal(size=(70000, 5)).astype(np.float32),
    )
    assert operators(prepared(model, ROWS)) == ["MatMul"]


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
def test_automatic_padding_becomes_numbers(mode: str) -> None:
    size = 4 if mode == "VALID" else 5
    model = parse(
        f"""m (float[n,4,9,9] x) => (float[n,4,{size},{size}] y) {{
            y = Conv <auto_pad="{mode}", strides=[2,2]> (x, w)
        }}""",
        w=RNG.normal(size=(4, 4, 2, 2)).astype(np.float32),
    )
    (node,) = prepared(model, IMAGE).graph
    assert "auto_pad" not in node.attributes
    expected = {"SAME_UPPER": [0, 0, 1, 1], "SAME_LOWER": [1, 1, 0, 0], "VALID": [0] * 4}
    assert list(node.attributes["pads"].as_ints()) == expected[mode]


def test_automatic_padding_knows_dilation() -> None:
    """The ONNX specification's sizes; ONNX Runtime does not compute this form at all."""
    model = parse(
        """m (float[n,4,9,9] x) => (float[n,4,9,9] y) {
            y = Conv <auto_pad="SAME_UPPER", dilations=[2,2]> (x, w)
        }""",
        w=W,
    )
    (node,) = prepare(model).graph
    assert list(node.attributes["pads"].as_ints()) == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("pads", "value", "expected"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], 0.0, ["Conv"]),
        ([0, 0, 1, 1, 0, 0, 1, 1], 1.0, ["Pad", "Conv"]),
        ([0, 0, -1, 1, 0, 0, 1, 1], 0.0, ["Pad", "Conv"]),
    ],
)
def test_padding_with_zero_is_part_of_the_convolution(
    pads: list[int], value: float, expected: list[str]
) -> None:
    model = parse(
        "m (float[n,4,9,9] x) => (float[n,4,h,v] y) { a = Pad (x, p, c) y = Conv (a, w) }",
        w=W,
        p=np.array(pads),
        c=np.array(value, np.float32),
    )
    result = prepared(model, IMAGE)
    assert operators(result) == expected
    assert result.graph[-1].name == "y"


def test_means_over_all_positions_are_pooling() -> None:
    model = parse(
        """m (float[n,4,9,9] x) => (float[n,4] p, float[n,4,1,1] q, float[n,4,9] r) {
            p = ReduceMean <keepdims=0> (x, a)
            q = ReduceMean (x, b)
            r = ReduceMean <keepdims=0> (x, c)
        }""",
        a=np.array([-1, 2]),
        b=np.array([2, 3]),
        c=np.array([3]),
    )
    found = operators(prepared(model, IMAGE))
    assert found.count("GlobalAveragePool") + found.count("ReduceMean") == len(found) - 1
    assert found.count("ReduceMean") == 1


def test_graphs_within_graphs_are_left_working() -> None:
    model = parse(
        """m (float[n,5] x, bool c) => (float[n,5] y) {
            h = Add (k, k)
            y = If (c) <
                then_branch = t () => (float[n,5] p) { s = Mul (x, h) p = Sigmoid (s) },
                else_branch = e () => (float[n,5] q) { q = Relu (x) }
            >
        }""",
        k=np.array(1, np.float32),
    )
    for condition in (False, True):
        prepared(model, {**ROWS, "c": np.array(condition)})


def test_rewritten_operators_keep_the_module_and_no_notes_of_others() -> None:
    model = parse(
        """m (float[n,5] x) => (float[n,5] y) { a = Max (x, zero) y = Min (a, six) }""",
        zero=np.array(0, np.float32),
        six=np.array(6, np.float32),
    )
    for node in model.graph:
        node.metadata_props["intact.module"] = "features.relu6"
    (node,) = prepared(model, ROWS).graph
    assert (node.op_type, node.name) == ("Clip", "y")
    assert node.metadata_props == {"intact.module": "features.relu6"}


def test_shapes_are_inferred_and_symbols_kept() -> None:
    model = parse(
        "m (float[batch,4,9,9] x) => (float[batch,4,7,7] y) { a = Conv (x, w) y = Relu (a) }",
        w=W,
    )
    for node in model.graph:
        node.outputs[0].shape = None if node.op_type == "Conv" else node.outputs[0].shape
    conv = prepare(model).graph[0]
    assert str(conv.outputs[0].shape) == "[batch,4,7,7]"


@pytest.mark.parametrize(
    ("name", "expected", "absent"),
    [
        ("rfb320_face", {"Conv": 52}, {"BatchNormalization", "Constant", "Shape", "Unsqueeze"}),
        ("dtln_1", {"LSTM": 2}, {"Constant"}),
        ("dtln_2", {"LayerNormalization": 1}, {"Constant", "ReduceMean", "Sqrt"}),
        ("resnet20_cifar10", {"Conv": 19}, set()),
    ],
)
def test_real_files(shared: Path, name: str, expected: dict[str, int], absent: set[str]) -> None:
    model, signature = capture(shared / "models" / f"{name}.onnx")
    feeds = {
        spec.name: RNG.normal(size=[d if isinstance(d, int) else 3 for d in spec.shape])
        .astype(spec.dtype)
        for spec in signature.inputs
    }  # fmt: skip
    result = prepared(model, feeds)
    found = operators(result)
    assert {op: found.count(op) for op in expected} == expected
    assert not absent & set(found)
    assert all(v.shape is not None for node in result.graph for v in node.outputs)


_PRINT_HASH = """
import hashlib, sys
import onnx_ir as ir
from intact.capture.onnx import capture
from intact.graph.prepare import prepare
model = ir.to_proto(prepare(capture(sys.argv[1])[0]))
print(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest())
"""


def test_the_same_model_gives_the_same_bytes_in_every_process(shared: Path) -> None:
    path = shared / "models" / "dtln_2.onnx"
    model, _ = capture(path)
    hashes = {hashlib.sha256(content(prepare(model))).hexdigest() for _ in range(2)}
    for seed in ("1", "2"):
        printed = subprocess.run(
            [sys.executable, "-c", _PRINT_HASH, str(path)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            check=True,
            text=True,
        )
        hashes.add(printed.stdout.split()[-1])
    assert len(hashes) == 1
