"""What forms of LSTM and GRU the dynamic functions cover."""

import onnx_ir as ir

__all__ = ["unsupported"]

_DEFAULT_ACTIVATIONS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}


def unsupported(node: ir.Node) -> str | None:
    """Why the functions do not cover this LSTM or GRU; None if they do."""
    attributes = node.attributes
    if "clip" in attributes:
        return "it clips its gates"
    if "layout" in attributes and attributes["layout"].as_int() != 0:
        return "its batch axis comes first (layout=1)"
    if "input_forget" in attributes and attributes["input_forget"].as_int() != 0:
        return "it couples input and forget gates"
    if "activations" in attributes:
        usual = _DEFAULT_ACTIVATIONS[node.op_type]
        given = list(attributes["activations"].as_strings())
        if any(given[i] != usual[i % len(usual)] for i in range(len(given))):
            return f"its activations are {', '.join(given)}"
    reset = attributes.get("linear_before_reset")
    if node.op_type == "GRU" and (reset is None or reset.as_int() == 0):
        return "it resets before the matrix product (linear_before_reset=0)"
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        return "its sequences have different lengths in one batch (sequence_lens)"
    if len(node.inputs) > 7 and node.inputs[7] is not None:
        return "it has peephole weights"
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    if bias is not None and bias.const_value is None:
        return "its bias is computed at run time"
    return None
