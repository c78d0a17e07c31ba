"""What is added to the scores of attention before their softmax, and what forbids some of them."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from intact.engine.finish import realize
from intact.engine.lowering.common import describe
from intact.engine.lowering.elementwise import apply, broadcast, choose
from intact.engine.program import Unsupported
from intact.engine.state import State
from intact.engine.values import Constant, Grouped, Scores, Stored, Value

__all__ = ["forbidden", "grouped", "masked"]

# What a score is replaced with where it is forbidden, or less: adding it to a score is the same.
_FORBIDDEN = -1e30


def masked(
    node: ir.Node, x: Scores | Grouped, mask: Value | None, state: State
) -> Scores | Grouped:
    """Scores plus a mask or bias, which may repeat over the batch, the heads and the queries."""
    if not isinstance(mask, (Stored, Constant)):
        raise Unsupported(f"operator '{node.name}' adds {describe(mask)} to scores")
    scores = x.scores if isinstance(x, Grouped) else x
    shape = (1,) * (len(x.shape) - len(mask.shape)) + mask.shape
    fits = len(shape) == len(x.shape) and all(
        n in (1, m) for n, m in zip(shape, x.shape, strict=True)
    )
    if not fits:
        raise Unsupported(f"operator '{node.name}' adds a mask of another shape")
    if isinstance(x, Grouped):
        if shape[0] != 1:
            raise Unsupported(f"operator '{node.name}' adds a mask for each image and window")
        shape = shape[1:]
    shape = _four(shape)
    if isinstance(mask, Constant):
        array = np.asarray(mask.real, np.float32).reshape(shape)
        if isinstance(scores.mask, Constant):
            array = scores.mask.array + array
        if not isinstance(scores.mask, Stored):
            return _with_mask(x, Constant(array))
    elif scores.mask is None:
        return _with_mask(x, _seen(mask, shape))
    assert scores.mask is not None
    parts = (realize(scores.mask, state), _seen(realize(mask, state), shape))
    return _with_mask(x, apply("Add:float32", parts, "float32", str(node.name), state))


def _four(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * (4 - len(shape)) + tuple(shape)


def _seen(x: Stored, shape: tuple[int, ...]) -> Stored:
    """x with axes of length 1 before its own, as many as the shape has."""
    added = len(shape) - len(x.shape)
    if added >= 0:
        return Stored(x.tensor, (1,) * added + x.shape, (0,) * added + x.strides, x.offset)
    return Stored(x.tensor, x.shape[-added:], x.strides[-added:], x.offset)


def _with_mask(x: Scores | Grouped, mask: Stored | Constant) -> Scores | Grouped:
    if isinstance(x, Grouped):
        return replace(x, scores=replace(x.scores, mask=mask))
    return replace(x, mask=mask)


def mask_view(scores: Scores, state: State) -> Stored | None:
    """The mask as attention reads it: [masks, heads, queries, keys], adjacent in the last axis."""
    if scores.mask is None:
        return None
    mask = realize(scores.mask, state)
    shape = (mask.shape[0], *_four(scores.shape)[1:])
    view = broadcast(mask, shape)
    if view.strides[-1] == 1 or shape[-1] == 1:
        return replace(view, strides=(*view.strides[:-1], 1))
    # Repeated along the keys, or seen from the side.
    rows = (*mask.shape[:-1], shape[-1])
    copy = state.contiguous(broadcast(mask, rows), scores.label)
    return broadcast(Stored.of(copy), shape)


def forbidden(node: ir.Node, read: list[Value | None], state: State) -> Value:
    """Where between scores and one number that forbids: a mask of that number and zeros."""
    condition, yes, no = read
    scores, number = (yes, no) if isinstance(yes, (Scores, Grouped)) else (no, yes)
    if not isinstance(scores, (Scores, Grouped)) or not isinstance(number, Constant):
        raise Unsupported(f"operator '{node.name}' chooses between other than scores and a number")
    if number.array.size != 1 or float(number.real.reshape(())) > _FORBIDDEN:
        raise Unsupported(f"operator '{node.name}' replaces scores")
    least, nothing = np.float32(number.real.reshape(())), np.float32(0)
    pair = (nothing, least) if scores is yes else (least, nothing)
    if isinstance(condition, Constant):
        return masked(node, scores, Constant(np.where(condition.array, *pair)), state)
    mask = choose(node, [condition, *(Constant(np.asarray(v)) for v in pair)], state)
    return masked(node, scores, mask, state)


def grouped(node: ir.Node, x: Scores | Grouped, shape: tuple[int, ...]) -> Value:
    """A reshape that splits the batch of scores in two, or joins it again."""
    if isinstance(x, Grouped) and shape == x.scores.shape:
        return x.scores
    if isinstance(x, Scores) and len(x.shape) == 4 and len(shape) == 5:
        images, windows, *rest = shape
        if images * windows == x.shape[0] and tuple(rest) == x.shape[1:]:
            return Grouped(x, shape)
    raise Unsupported(f"operator '{node.name}' reshapes scores from {x.shape} to {shape}")
