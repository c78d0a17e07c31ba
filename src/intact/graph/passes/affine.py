"""Batch normalization, and scales and shifts like it, made part of the weights before them."""

from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.graph.passes.constants import add_constant, array_of, replace_constant

__all__ = ["FoldAffine"]

_Vector = NDArray[np.float64]
_WEIGHTED: Final = frozenset({"Conv", "ConvTranspose", "Gemm"})


class FoldAffine(ir.passes.InPlacePass):
    """Computes per-channel affine functions into the weighted operator before them.

    1. `f(Conv(x, w, b))` becomes `Conv(x, w', b')`, where f is BatchNormalization in its inference
       form, or Add, Sub, Mul or Div with a constant that has one element or one per output channel.
       ConvTranspose and Gemm alike. Chains of such f fold one after the other.
    2. The operator keeps its name and module; its output takes f's name.
    3. Weights, biases and parameters must be constant, and only f may use the operator's output.
       A weight or bias that others use too is copied.
    4. A Gemm's alpha and beta go into its weight and bias, whether or not an f follows.

    onnxscript's rules for batch normalization are not used: they lose the operator's name, leave
    shared weights alone, and fold the training form too.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rules to the whole graph."""
        modified = False
        for node in list(model.graph):
            if not _is_foldable(node):
                continue
            modified |= _fold_factors(model.graph, node)
            while (found := _following(node)) is not None:
                node = _fold(model.graph, node, *found)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_foldable(node: ir.Node) -> bool:
    """Whether weight and bias are constants of the forms that the rules can scale."""
    if node.op_type not in _WEIGHTED or node.domain not in ("", "ai.onnx"):
        return False
    weight = array_of(node.inputs[1])
    if (
        weight is None
        or weight.ndim < 2
        or weight.dtype not in (np.float16, np.float32, np.float64)
    ):
        return False
    given = node.inputs[2] if len(node.inputs) > 2 else None
    bias = array_of(given)
    if bias is None:
        return given is None
    return bias.size == 1 or (bias.size == _channels(node) == bias.shape[-1])


def _channels(node: ir.Node) -> int:
    """The number of output channels."""
    weight = array_of(node.inputs[1])
    assert weight is not None
    if node.op_type == "ConvTranspose":
        return int(weight.shape[1]) * _integer(node, "group", 1)
    return int(weight.shape[_weight_axis(node)])


def _weight_axis(node: ir.Node) -> int:
    """The weight's axis of output channels (of a Conv or Gemm)."""
    return 1 if node.op_type == "Gemm" and not _integer(node, "transB", 0) else 0


def _integer(node: ir.Node, attribute: str, default: int) -> int:
    found = node.attributes.get(attribute)
    return default if found is None else found.as_int()


def _following(node: ir.Node) -> tuple[ir.Node, _Vector, _Vector] | None:
    """The affine function that alone uses the node's output, with its scale and shift."""
    output = node.outputs[0]
    uses = output.uses()
    if len(uses) != 1 or output.is_graph_output():
        return None
    ((user, index),) = uses
    if user.graph is not node.graph or user.domain not in ("", "ai.onnx"):
        return None
    if user.op_type == "BatchNormalization":
        found = _of_batch_norm(user) if index == 0 else None
    else:
        found = _of_arithmetic(user, index, node)
    if found is None or not all(v.shape == (_channels(node),) for v in found):
        return None
    return user, *found


def _of_batch_norm(node: ir.Node) -> tuple[_Vector, _Vector] | None:
    if _integer(node, "training_mode", 0) or any(v.uses() for v in node.outputs[1:]):
        return None
    arrays = [array_of(v) for v in node.inputs[1:5]]
    if any(a is None for a in arrays):
        return None
    gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
    epsilon = node.attributes.get("epsilon")
    scale = gamma / np.sqrt(variance + (1e-5 if epsilon is None else epsilon.as_float()))
    return scale, beta - mean * scale


def _of_arithmetic(user: ir.Node, index: int, node: ir.Node) -> tuple[_Vector, _Vector] | None:
    if user.op_type not in ("Add", "Sub", "Mul", "Div"):
        return None
    constant, weight = array_of(user.inputs[1 - index]), array_of(node.inputs[1])
    if constant is None or weight is None:
        return None
    c = _per_channel(constant, weight.ndim, _channels(node))
    if c is None:
        return None
    one, zero = np.ones_like(c), np.zeros_like(c)
    match user.op_type, index:
        case "Mul", _:
            return c, zero
        case "Div", 0:
            return (1 / c, zero) if c.all() else None
        case "Add", _:
            return one, c
        case "Sub", 0:
            return one, -c
        case "Sub", 1:
            return -one, c
    return None


def _per_channel(array: NDArray[Any], rank: int, channels: int) -> _Vector | None:
    """The constant as one number per channel, if it broadcasts along axis 1 and no other."""
    shape = (1,) * (rank - array.ndim) + array.shape
    if len(shape) != rank:
        return None
    if array.size == 1:
        return np.full(channels, array.item(), np.float64)
    if array.size == shape[1] == channels:
        return array.reshape(-1).astype(np.float64)
    return None


def _fold_factors(graph: ir.Graph, node: ir.Node) -> bool:
    """Rule 4."""
    factors = {
        name: attribute.as_float()
        for name in ("alpha", "beta")
        if node.op_type == "Gemm" and (attribute := node.attributes.get(name)) is not None
    }
    for name, index in (("alpha", 1), ("beta", 2)):
        factor = factors.get(name, 1.0)
        value = node.inputs[index] if index < len(node.inputs) else None
        if factor != 1.0 and value is not None:
            array = array_of(value)
            assert array is not None
            scaled = (array.astype(np.float64) * factor).astype(array.dtype)
            node.replace_input_with(index, replace_constant(graph, value, scaled))
        node.attributes.pop(name, None)
    return any(factor != 1.0 for factor in factors.values())


def _fold(graph: ir.Graph, node: ir.Node, user: ir.Node, scale: _Vector, shift: _Vector) -> ir.Node:
    """Rules 1 to 3: one operator in place of `node` and `user`."""
    weight = array_of(node.inputs[1])
    assert weight is not None
    channels = len(scale)
    given = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    before = np.zeros(channels) if given is None else given.reshape(-1).astype(np.float64)
    bias = (np.broadcast_to(before, channels) * scale + shift).astype(weight.dtype)
    old_weight, old_bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    assert old_weight is not None
    if (scale != 1).any():
        old_weight = replace_constant(graph, old_weight, _scaled(node, weight, scale))
    new_bias = (
        add_constant(graph, f"{node.name}.bias", bias)
        if old_bias is None
        else replace_constant(graph, old_bias, bias)
    )
    output = user.outputs[0]
    new = ir.node(
        node.op_type, [node.inputs[0], old_weight, new_bias],
        attributes=dict(node.attributes), name=node.name,
    )  # fmt: skip
    new.metadata_props.update(node.metadata_props)
    ir.convenience.replace_nodes_and_values(
        graph, user, [user, node], [new], [output], [new.outputs[0]]
    )
    return new


def _scaled(node: ir.Node, weight: NDArray[Any], scale: _Vector) -> NDArray[Any]:
    """The weight with each output channel scaled."""
    exact = weight.astype(np.float64)
    if node.op_type == "ConvTranspose":
        # [in, out / group, ...]: the input channels of one group see that group's outputs.
        group = _integer(node, "group", 1)
        blocks = exact.reshape(group, -1, *weight.shape[1:])
        factors = scale.reshape(group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        return (blocks * factors).reshape(weight.shape).astype(weight.dtype)
    axis = _weight_axis(node)
    factors = scale.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
    return (exact * factors).astype(weight.dtype)
