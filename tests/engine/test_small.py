"""Ids, masks and embeddings: what ONNX's reference makes of them, or within 1e-6 of it."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from intact.core.errors import InputError
from tests.engine.build import Array, Graph, activation, needs_native

pytestmark = needs_native
RNG = np.random.default_rng(0)
WHOLE = np.array([[-3, 0, 1, 2**62], [5, -1, 0, 7]])
REAL = np.array([[-3.5, 0.0, 1.25, np.inf], [5e8, -0.5, 2.0, 7.0]], np.float32)


def check(graph: Graph, output: str = "y") -> None:
    found = graph.run([output])[0]
    expected = ReferenceEvaluator(graph.proto([output])).run(None, graph.inputs)[0]
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def as_float(graph: Graph, name: str) -> None:
    graph.node("Cast", [name], "y", to=onnx.TensorProto.FLOAT)


@pytest.mark.parametrize("operands", [(WHOLE, WHOLE[::-1]), (REAL, REAL[::-1]), (WHOLE, WHOLE[:1])])
@pytest.mark.parametrize("op_type", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparisons(op_type: str, operands: tuple[Array, Array]) -> None:
    graph = Graph()
    a, b = (np.ascontiguousarray(array) for array in operands)
    graph.node(op_type, [graph.input("a", a), graph.input("b", b)], "c")
    as_float(graph, "c")
    check(graph)


@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Min", "Max"])
def test_arithmetic_of_whole_numbers(op_type: str) -> None:
    graph = Graph()
    names = [graph.input("a", WHOLE), graph.constant("b", np.array([[2], [-9]]))]
    graph.node(op_type, names, "c")
    as_float(graph, "c")
    with np.errstate(over="ignore"):
        check(graph)


@pytest.mark.parametrize("op_type", ["Sub", "Div", "Min", "Max"])
@pytest.mark.parametrize("shape", [(4,), (2, 1), (3, 1, 2, 4), ()])
def test_arithmetic_of_floats_broadcasts(op_type: str, shape: tuple[int, ...]) -> None:
    graph = Graph()
    b = RNG.uniform(0.5, 2, shape).astype(np.float32)
    graph.node(op_type, [graph.input("a", REAL), graph.input("b", np.asarray(b))], "y")
    check(graph)


@pytest.mark.parametrize("op_type", ["And", "Or", "Xor"])
def test_logic(op_type: str) -> None:
    graph = Graph()
    a, b = WHOLE > 0, np.array([[True, False, True, True]])
    graph.node(op_type, [graph.input("a", a), graph.input("b", b)], "c")
    as_float(graph, graph.node("Not", ["c"], "n"))
    check(graph)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int32, np.int64])
def test_masks_of_any_type(dtype: Any) -> None:
    """(1 - mask) * lowest, as exporters write it, and the same as a choice."""
    graph, mask = Graph(), np.array([[1, 1, 0], [1, 0, 0]], dtype)
    graph.node("Unsqueeze", [graph.input("m", mask), graph.constant("axes", np.array([1, 2]))], "u")
    graph.node("Cast", ["u"], "f", to=onnx.TensorProto.FLOAT)
    graph.node("Sub", [graph.constant("one", np.float32(1)), "f"], "s")
    graph.node("Mul", ["s", graph.constant("low", np.float32(-1e9))], "a")
    graph.node("Cast", ["u"], "b", to=onnx.TensorProto.BOOL)
    graph.node("Expand", ["b", graph.constant("shape", np.array([2, 1, 3, 3]))], "e")
    choices = [graph.constant("zero", np.float32(0)), graph.constant("no", np.float32(-7))]
    graph.node("Where", ["e", *choices], "w")
    graph.node("Sub", ["w", "a"], "y")
    check(graph)


def test_a_cast_of_floats_goes_towards_zero() -> None:
    graph = Graph()
    graph.node("Cast", [graph.input("x", REAL[:, :3])], "i", to=onnx.TensorProto.INT64)
    as_float(graph, "i")
    check(graph)


def test_whole_numbers_are_cut_and_joined() -> None:
    graph = Graph()
    x = graph.input("x", np.arange(24).reshape(2, 3, 4))
    bounds = [graph.constant(k, np.array([v])) for k, v in (("s", 0), ("e", 4), ("a", 2), ("t", 2))]
    graph.node("Slice", [x, *bounds], "even")
    graph.node("Concat", ["even", x], "joined", axis=2)
    graph.node("Transpose", ["joined"], "turned", perm=[2, 0, 1])
    graph.node("Reshape", ["turned", graph.constant("shape", np.array([6, -1]))], "flat")
    as_float(graph, "flat")
    check(graph)


def test_whole_numbers_are_picked_padded_and_repeated() -> None:
    """Such as no float could carry."""
    graph, large = Graph(), 2**50
    x = graph.input("x", np.arange(24).reshape(2, 3, 4) + large)
    index = graph.constant("index", np.array([[2, 0], [-1, 1]]))
    graph.node("Gather", [x, index], "picked", axis=2)
    pads = graph.constant("pads", np.array([0, 1, 0, 0, 1, 0, 0, 2]))
    graph.node("Pad", ["picked", pads, graph.constant("fill", np.array(large - 1))], "padded")
    graph.node("Tile", ["padded", graph.constant("counts", np.array([1, 2, 1, 3]))], "tiled")
    graph.node("Sub", ["tiled", graph.constant("large", np.array(large))], "small")
    as_float(graph, "small")
    check(graph)


def embedding(graph: Graph, table: Array, ids: Array, **parameters: Any) -> None:
    names = [graph.constant("table", table), graph.input("ids", ids)]
    if not parameters:
        graph.node("Gather", names, "y")
        return
    scale = graph.constant("scale", parameters["scale"])
    if "zero_point" in parameters:
        point = graph.constant("zero_point", parameters["zero_point"])
        axis = {} if np.ndim(parameters["scale"]) == 0 else {"axis": 0}
        graph.node("DequantizeLinear", [names[0], scale, point], "real", **axis)
        graph.node("Gather", ["real", "ids"], "y")
        return
    graph.node("Cast", [graph.node("Gather", names, "rows")], "real", to=onnx.TensorProto.FLOAT)
    graph.node("Mul", ["real", graph.node("Gather", [scale, "ids"], "s")], "y")


TABLES: list[tuple[Array, dict[str, Any]]] = [
    (RNG.standard_normal((11, 5)).astype(np.float32), {}),
    (RNG.integers(-128, 128, (11, 5)).astype(np.int8), {"scale": RNG.random((11, 1), np.float32)}),
    (RNG.integers(0, 256, (11, 5)).astype(np.uint8),
     {"scale": np.float32(0.1), "zero_point": np.uint8(77)}),
    (RNG.integers(-128, 128, (11, 5)).astype(np.int8),
     {"scale": RNG.random(11, np.float32), "zero_point": np.zeros(11, np.int8)}),
]  # fmt: skip


@pytest.mark.parametrize(("table", "parameters"), TABLES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_embeddings(table: Array, parameters: dict[str, Any], dtype: Any) -> None:
    graph = Graph()
    embedding(graph, table, np.array([[0, 10, -1], [-11, 3, 3]], dtype), **parameters)
    check(graph)


@pytest.mark.parametrize(("table", "parameters"), TABLES)
@pytest.mark.parametrize("wrong", [11, -12, 2**40, -(2**63)])
def test_an_index_beyond_the_table_is_one_clear_error(
    table: Array, parameters: dict[str, Any], wrong: int
) -> None:
    graph = Graph()
    embedding(graph, table, np.array([0, wrong]), **parameters)
    message = f"looks up index {wrong}; its table takes indices from -11 to 10"
    with pytest.raises(InputError, match=message):
        graph.run(["y"])


def test_a_table_is_read_where_it_lies() -> None:
    from intact.engine.compile import Model

    graph = Graph()
    embedding(graph, np.zeros((1000, 8), np.int8), np.array([1]), scale=np.ones((1000, 1), "f"))
    model = Model(graph.proto(["y"]), 1, lambda content: pytest.fail("no session is needed"))
    (part,) = model.executable(graph.inputs).parts
    tables = [array for array in part.constants if array.dtype == np.int8]  # type: ignore[union-attr]
    assert len(tables) == 1 and tables[0].base is not None


@pytest.mark.parametrize("indices", [[[0, 1]], [[2], [0]], [-1, 0], [1]])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gather_of_what_is_computed(indices: Any, axis: int) -> None:
    graph = Graph()
    x = graph.input("x", RNG.standard_normal((3, 4, 5)).astype(np.float32))
    graph.node("Gather", [x, graph.constant("i", np.array(indices))], "g", axis=axis)
    graph.node("Tanh", ["g"], "y")
    found = graph.run(["y"])[0]
    np.testing.assert_allclose(found, np.tanh(graph.inputs["x"].take(indices, axis)), atol=1e-6)


def test_gather_nd_of_a_grid_is_a_view() -> None:
    graph = Graph()
    mask = RNG.integers(0, 2, (2, 5)).astype(bool)
    rows, columns = np.meshgrid(np.arange(2), np.arange(5), indexing="ij")
    grid = np.stack([rows, columns], axis=-1)[:, None, None]
    graph.node("GatherND", [graph.input("m", mask), graph.constant("i", grid)], "g")
    as_float(graph, "g")
    check(graph)


def test_padding() -> None:
    graph = Graph()
    x = graph.input("x", RNG.standard_normal((2, 3, 4)).astype(np.float32))
    pads = graph.constant("pads", np.array([0, 1, 0, 0, 2, 3]))
    graph.node("Pad", [x, pads, graph.constant("v", np.float32(2.5))], "p")
    graph.node("Relu", ["p"], "y")
    check(graph)


def test_whole_numbers_are_an_output_of_their_type() -> None:
    graph = Graph()
    graph.node("Add", [graph.input("a", np.array([1, 2])), graph.constant("b", np.array([5]))], "y")
    proto = graph.proto(["y"])
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    from intact.engine.compile import Model

    model = Model(proto, 1, lambda content: pytest.fail("no session is needed"))
    (found,) = model.run(graph.inputs)
    np.testing.assert_array_equal(found, np.array([6, 7]), strict=True)


def test_floats_where_whole_numbers_belong_are_refused() -> None:
    graph = Graph()
    embedding(graph, TABLES[0][0], np.array([1]))
    graph_inputs = {"ids": np.array([1.0], np.float32)}
    from intact.engine.compile import Model

    model = Model(graph.proto(["y"]), 1, lambda content: pytest.fail("no session is needed"))
    with pytest.raises(InputError, match="'ids' is float32; give whole numbers"):
        model.run(graph_inputs)


@pytest.mark.parametrize("op_type", ["Add", "Mul", "Concat"])
def test_described_values_become_floats_where_floats_are_read(op_type: str) -> None:
    """An integer sum, gate or concatenation that is an output, and not quantized again."""
    graph = Graph()
    shapes = {"Add": (2, 3, 4, 5), "Mul": (2, 3, 1, 1), "Concat": (2, 2, 4, 5)}
    a = graph.activation("a", *activation(RNG, (2, 3, 4, 5)))
    b = graph.activation("b", *activation(RNG, shapes[op_type]))
    attributes = {"axis": 1} if op_type == "Concat" else {}
    graph.node(op_type, [a, b], "c", **attributes)
    graph.node("Relu", ["c"], "y") if op_type == "Add" else graph.node("Identity", ["c"], "y")
    check(graph)


@pytest.mark.parametrize("table", [np.arange(7) * 3, np.arange(21, dtype=np.int32).reshape(7, 3)])
def test_tables_of_whole_numbers(table: Array) -> None:
    """As of the buckets of relative positions."""
    graph = Graph()
    graph.node("Gather", [graph.constant("t", table), graph.input("i", np.array([[6, -7]]))], "g")
    as_float(graph, "g")
    check(graph)


def test_gather_elements_of_a_repeated_row() -> None:
    graph = Graph()
    table = graph.constant("t", np.tile(RNG.random(9, np.float32), (3, 1)))
    graph.node(
        "GatherElements", [table, graph.input("i", np.array([[1, 8], [-9, 0]]))], "y", axis=1
    )
    expected = graph.constants["t"][0][graph.inputs["i"]]
    np.testing.assert_array_equal(graph.run(["y"])[0], expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("x", [WHOLE, RNG.standard_normal((2, 3, 4)).astype(np.float32)])
def test_running_sums(x: Array, axis: int) -> None:
    graph = Graph()
    graph.node("CumSum", [graph.input("x", x), graph.constant("axis", np.array(axis))], "c")
    as_float(graph, "c")
    found = graph.run(["y"])[0]
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, x.cumsum(axis).astype(np.float32), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5])
def test_powers_and_reciprocals(exponent: float) -> None:
    """As of a normalization by the root of the mean of squares."""
    graph = Graph()
    x = graph.input("x", RNG.uniform(0.1, 3, (2, 4, 8)).astype(np.float32))
    graph.node("Pow", [x, graph.constant("e", np.float32(exponent))], "p")
    graph.node("Reciprocal", [graph.node("Sqrt", ["p"], "root")], "r")
    graph.node("Mul", [x, "r"], "y")
    check(graph)
