"""Steps that move, mix and scale images refuse what does not hold together."""

from typing import Any

import numpy as np
import pytest

from intact.core.native import native
from tests.engine.build import needs_native

pytestmark = needs_native
FLOATS = np.ones(8, np.float32)
TAPS = (1, np.arange(2), np.ones(2, np.float32))

# What each step takes for two images of 2 * 2 pixels and 8 channels of uint8.
STEPS: dict[str, dict[str, Any]] = {
    "move": {
        "x_offset": 0, "y_offset": 0, "axes": [(8, 8, 8), (8, 1, 1)], "offsets": [None, None],
        "value_bytes": 1, "fill": 0, "table": None,
    },
    "channelwise": {
        "pixels": 8, "factor": FLOATS, "shift": FLOATS, "slope": FLOATS, "quantized": (1.0, 0),
        "scale": 1.0, "clamp": (0.0, 255.0, 0),
    },
    "real_channelwise": {
        "pixels": 2, "factor": FLOATS, "shift": FLOATS, "slope": FLOATS, "function": None,
    },
    "resample": {
        "sizes": (2, 2, 2, 8, 2, 2), "rows": TAPS, "columns": TAPS, "quantized": (1.0, 0),
        "to": (1.0, 0),
    },
    "map": {"size": 16, "function": "Exp", "alpha": 1.0},
    "lookup_floats": {"size": 16, "table": np.zeros(256, np.float32)},
}  # fmt: skip


def add(kind: str, **changes: Any) -> None:
    assert native is not None
    program = native.Program(native.Engine.create(1, ""), 4096, [64], [64])
    arguments = {"label": kind, "x": (0, 0, 64), "y": (0, 64, 64), **STEPS[kind], **changes}
    getattr(program, kind)(**arguments)


LISTED = [(8, 8, 8), (8, 0, 1)]


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("move", {"x": (0, 4096, 64)}, "outside the arena"),
        ("move", {"y": (1, 0, 64)}, "write to an input"),
        ("move", {"x_offset": 1}, "outside their tensor"),
        ("move", {"y_offset": 1}, "outside their tensor"),
        ("move", {"x_offset": 2**63}, "outside their tensor"),
        ("move", {"value_bytes": 4}, "outside their tensor"),
        ("move", {"value_bytes": 8}, "outside their tensor"),
        ("move", {"value_bytes": 4, "fill": 2**32}, "more than 4 bytes"),
        ("move", {"value_bytes": 2}, "neither 1 nor 4 nor 8"),
        ("move", {"fill": 256}, "no uint8"),
        ("move", {"axes": [(8, 9, 8), (8, 1, 1)]}, "outside their tensor"),
        ("move", {"axes": [(2**62, 8, 8), (8, 1, 1)]}, "too large"),
        ("move", {"axes": [(0, 8, 8), (8, 1, 1)]}, "empty"),
        ("move", {"axes": [], "offsets": []}, "no axes"),
        ("move", {"axes": [(1, 1, 1)] * 13, "offsets": [None] * 13}, "too many"),
        ("move", {"offsets": [None]}, "as many offsets"),
        ("move", {"axes": LISTED, "offsets": [None, np.arange(7)]}, "number of offsets"),
        ("move", {"axes": LISTED, "offsets": [None, np.full(8, 8)]}, "outside their tensor"),
        ("move", {"axes": LISTED, "offsets": [None, np.full(8, -2)]}, "negative"),
        ("move", {"table": np.zeros(9, np.uint8)}, "256 entries"),
        ("channelwise", {"pixels": 9}, "too small"),
        ("channelwise", {"pixels": 0}, "empty"),
        ("channelwise", {"shift": FLOATS[:7]}, "numbers as channels"),
        ("channelwise", {"quantized": (1.0, 256)}, "no uint8"),
        ("channelwise", {"clamp": (0.0, 256.0, 0)}, "no uint8"),
        ("real_channelwise", {"pixels": 3}, "too small"),
        ("real_channelwise", {"function": ("Cosine", 0.0, 0.0)}, "unknown"),
        ("resample", {"sizes": (2, 2, 2, 9, 2, 2)}, "too small"),
        ("resample", {"sizes": (2, 0, 2, 8, 2, 2)}, "empty"),
        ("resample", {"rows": (1, np.arange(3), np.ones(3, np.float32))}, "taps as values"),
        ("resample", {"rows": (0, np.arange(0), np.ones(0, np.float32))}, "taps as values"),
        ("resample", {"columns": (1, np.arange(1, 3), TAPS[2])}, "outside its image"),
        ("resample", {"to": (1.0, -1)}, "no uint8"),
        ("map", {"size": 17}, "too small"),
        ("map", {"function": "Cosine"}, "unknown"),
        ("lookup_floats", {"size": 17}, "too small"),
        ("lookup_floats", {"table": FLOATS}, "256 entries"),
    ],
)  # fmt: skip
def test_a_step_that_does_not_hold_together_is_refused(
    kind: str, changes: dict[str, Any], message: str
) -> None:
    add(kind)
    with pytest.raises(ValueError, match=message):
        add(kind, **changes)
