"""Products of two activations: attention, one instruction for all of its heads."""

from math import prod
from typing import Final

import onnx_ir as ir

from intact.engine.finish import realize
from intact.engine.lowering.common import Lowering, describe
from intact.engine.lowering.masks import mask_view
from intact.engine.lowering.products import weight_product
from intact.engine.program import Unsupported, new_tensor, row_major
from intact.engine.state import State
from intact.engine.values import (
    Constant,
    Dequantized,
    Probabilities,
    Scaled,
    Scores,
    Seen,
    Stored,
    Value,
)

__all__ = ["LOWERINGS"]


def _matmul(node: ir.Node, read: list[Value | None], state: State) -> Value:
    a, b = read
    if isinstance(a, (Dequantized, Seen)) and isinstance(b, Constant):
        return weight_product(node, a, b)
    if isinstance(a, Probabilities):
        return _attend(node, a, realize(b, state), state)
    if isinstance(a, (Stored, Scaled)) and isinstance(b, (Stored, Scaled)):
        return _scores(node, a, b, state)
    raise Unsupported(f"operator '{node.name}' multiplies {describe(a)} and {describe(b)}")


def _scores(node: ir.Node, a: Stored | Scaled, b: Stored | Scaled, state: State) -> Value:
    """Not computed before the softmax and the values are known."""
    factor = 1.0
    for side in (a, b):
        factor *= side.factor if isinstance(side, Scaled) else 1.0
    q, k = (side.x if isinstance(side, Scaled) else side for side in (a, b))
    rank = len(q.shape)
    if not 3 <= rank <= 4 or q.shape[:-2] != k.shape[:-2] or q.shape[-1] != k.shape[-2]:
        raise Unsupported(f"operator '{node.name}' multiplies {describe(a)} and {describe(b)}")
    swapped = Stored(
        k.tensor, (*k.shape[:-2], *k.shape[:-3:-1]), (*k.strides[:-2], *k.strides[:-3:-1]), k.offset
    )
    return Scores(str(node.name), _adjacent(q, state), _adjacent(swapped, state), factor)


def _adjacent(x: Stored, state: State) -> Stored:
    """x with the values of its last axis side by side."""
    if x.strides[-1] == 1 or x.shape[-1] == 1:
        return x
    return Stored.of(state.contiguous(x, "attention"))


def _attend(node: ir.Node, p: Probabilities, v: Stored, state: State) -> Value:
    scores, v = p.scores, _adjacent(v, state)
    q, k = scores.q, scores.k
    lead = q.shape[:-2]
    if v.shape[:-2] != lead or v.shape[-2] != k.shape[-2]:
        raise Unsupported(f"operator '{node.name}' multiplies {describe(p)} and {describe(v)}")
    queries, width = q.shape[-2:]
    keys, v_width = v.shape[-2:]
    batch, heads = (1, *lead) if len(lead) == 1 else lead
    # Positions before heads in memory: what follows is nearly always the transpose back.
    y = new_tensor((batch, queries, heads, v_width), "float32")
    by_batch, by_query, by_head, _ = row_major(y.shape)
    views = {
        name: (view.offset, _four(view.strides))
        for name, view in (("q_view", q), ("k_view", k), ("v_view", v))
    }
    inputs = [q.tensor, k.tensor, v.tensor]
    mask = mask_view(scores, state)
    if mask is not None:
        inputs.append(mask.tensor)
        views["mask_view"] = (mask.offset, mask.strides)
    state.add(
        "attention", str(node.name), y, inputs, factor=scores.factor, quantized=None,
        y_view=(0, (by_batch, by_head, by_query, 1)), empty_is_zero=p.empty_is_zero,
        sizes=(batch, heads, queries, keys, width, v_width),
        masks=1 if mask is None else mask.shape[0], **views,
    )  # fmt: skip
    shape, strides = (batch, heads, queries, v_width), (by_batch, by_head, by_query, 1)
    if len(lead) == 1:
        shape, strides = shape[1:], strides[1:]  # type: ignore[assignment]
    assert prod(shape) == y.size
    return Stored(y, shape, strides)


def _four(strides: tuple[int, ...]) -> tuple[int, ...]:
    return (0,) * (4 - len(strides)) + strides


LOWERINGS: Final[dict[tuple[str, str], Lowering]] = {("", "MatMul"): _matmul}
