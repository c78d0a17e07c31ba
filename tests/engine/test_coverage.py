"""Whatever intact may quantize, the engine runs: every row of the table of operators."""

import pytest

from intact.emit.functions import _TEXTS
from intact.engine.lowering import LOWERINGS
from intact.graph.operators import OPERATORS


@pytest.mark.parametrize("name", OPERATORS)
def test_the_engine_knows_the_operator(name: str) -> None:
    assert ("", name) in LOWERINGS


@pytest.mark.parametrize("name", _TEXTS)
def test_the_engine_knows_the_function(name: str) -> None:
    assert ("intact", name) in LOWERINGS
