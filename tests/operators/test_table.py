"""Every operator that may be quantized has a reference."""

import re

import pytest

from intact.core import arithmetic
from intact.graph.operators import OPERATORS


def _snake(name: str) -> str:
    """`GlobalAveragePool` as `global_average_pool`; `LSTM`, `MatMul` and `PRelu` as one word."""
    whole = {"LSTM": "lstm", "GRU": "gru", "MatMul": "matmul", "PRelu": "prelu"}
    return whole.get(name) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize(
    "name",
    [n for n, row in OPERATORS.items() if row.kind not in ("view", "float", "unary")]
    + ["MaxPool", "GlobalMaxPool"],
)
def test_operator_has_a_function(name: str) -> None:
    assert _snake(name) in arithmetic.__all__
    assert callable(getattr(arithmetic, _snake(name)))


@pytest.mark.parametrize("name", [n for n, row in OPERATORS.items() if row.kind == "unary"])
def test_unary_operator_has_a_function_for_its_table(name: str) -> None:
    assert name in arithmetic.FUNCTIONS


def test_all_names_exist() -> None:
    for name in arithmetic.__all__:
        assert hasattr(arithmetic, name)
