"""Attention, marked where it is."""

import onnx_ir as ir

__all__ = ["ATTENTION", "MarkAttention"]

ATTENTION = "intact.attention"  # metadata key; the value is the part that a node plays

# Windowed attention (Swin) reshapes its scores to add a mask of each window.
_BEFORE = frozenset({"Add", "Mul", "Div", "Where", "Sub", "Cast", "Reshape"})
_BEHIND = frozenset({"Where", "Dropout", "Cast", "IsNaN", "Reshape"})


class MarkAttention(ir.passes.InPlacePass):
    """Marks the operators of scaled dot-product attention, however masks and scales are spelled.

    1. A Softmax whose input comes, through scaling and masking only, from a product of two
       activations (QKᵀ), and whose output goes, through guards only, into another (·V), is
       attention's softmax; the three get the metadata `intact.attention` with the value "scores",
       "softmax" or "context".
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rule to the whole graph."""
        modified = False
        for node in model.graph:
            if node.op_type != "Softmax":
                continue
            scores, context = _behind(node.inputs[0]), _ahead(node.outputs[0])
            if scores is not None and context is not None:
                for part, name in ((scores, "scores"), (node, "softmax"), (context, "context")):
                    part.metadata_props[ATTENTION] = name
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_product(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and all(
        v is not None and v.const_value is None for v in node.inputs
    )


def _behind(value: ir.Value | None) -> ir.Node | None:
    """The product that a softmax's input comes from."""
    while value is not None and (node := value.producer()) is not None:
        if _is_product(node):
            return node
        if node.op_type not in _BEFORE:
            return None
        value = next((v for v in node.inputs if v is not None and _leads_to_product(v)), None)
    return None


def _leads_to_product(value: ir.Value, depth: int = 6) -> bool:
    node = value.producer()
    if node is None or depth == 0:
        return False
    if _is_product(node):
        return True
    return node.op_type in _BEFORE and any(
        v is not None and _leads_to_product(v, depth - 1) for v in node.inputs
    )


def _ahead(value: ir.Value, depth: int = 4) -> ir.Node | None:
    """The product that a softmax's output goes into as its first factor."""
    for use in value.uses():
        if _is_product(use.node) and use.idx == 0:
            return use.node
        if use.node.op_type in _BEHIND and depth:
            found = _ahead(use.node.outputs[0], depth - 1)
            if found is not None:
                return found
    return None
