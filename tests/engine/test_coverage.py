"""Whatever intact may quantize, the engine runs: every row of the table of operators."""

from typing import Final

import pytest

from intact.emit.functions import _TEXTS
from intact.engine.lowering import LOWERINGS
from intact.graph.operators import OPERATORS

# Operators that the engine does not have, and why.
MISSING: Final[dict[str, str]] = {
    "LSTM": "quantized as intact.DynamicLSTM, or only its weights are: a float operator then",
    "GRU": "quantized as intact.DynamicGRU, or only its weights are: a float operator then",
}
MISSING_FUNCTIONS: Final[dict[str, str]] = {
    "DynamicLSTM": "recurrences run in ONNX Runtime",
    "DynamicGRU": "recurrences run in ONNX Runtime",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_engine_knows_the_operator_or_says_why_not(name: str) -> None:
    assert (("", name) in LOWERINGS) != (name in MISSING)


@pytest.mark.parametrize("name", _TEXTS)
def test_the_engine_knows_the_function_or_says_why_not(name: str) -> None:
    assert (("intact", name) in LOWERINGS) != (name in MISSING_FUNCTIONS)
