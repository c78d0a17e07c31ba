"""From a captured graph to the form that the other rooms rely on.

Afterwards constants are initializers, batch normalization is part of the convolution before it,
composite functions are single operators, every value has a shape as far as it can be inferred, and
every node and value has a unique name.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

from intact.graph.passes import (
    ExplicitPadding,
    FoldAffine,
    GlobalPooling,
    MarkAttention,
    RecognizeFunctions,
    RecognizeLayerNorm,
)

__all__ = ["prepare"]

# Elements. A constant may be larger than what it is computed from up to here; beyond, an expanded
# scalar would fill the file with what the runtime computes in no time.
_LARGEST_GROWTH: Final = 1 << 16
_UNLIMITED: Final = 1 << 62

# Those of onnxscript's rules that change nothing but the spelling. Its rules for `x + 0` and
# `x * 1` are left out: to them 1e-12 is 0, which takes the epsilon from a layer normalization.
_RULES: Final = (
    rules.cast_cast_rule,
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.dropout_inference_rule,
    rules.dropout_zero_rule,
    rules.flatten_to_reshape_rule,
    rules.fuse_pad_into_conv_rule,
    rules.materialize_reshape_shape_rule,
    rules.max_max_rule,
    rules.max_min_rule,
    rules.min_max_rule,
    rules.min_min_rule,
    rules.no_op_cast_rule,
    rules.no_op_dynamic_scatter_nd_rule,
    rules.no_op_expand_rule,
    rules.no_op_static_scatter_nd_rule,
    rules.no_op_transpose_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.reshape_reshape_rule,
    rules.slice_split_rule,
    rules.squeeze_reshape_1d_rule,
    rules.successive_clip_relu_rule,
    rules.successive_clip_rule,
    rules.successive_relu_clip_rule,
    rules.successive_relu_rule,
    rules.transpose_transpose_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.unsqueeze_unsqueeze_rule,
)


def prepare(model: ir.Model) -> ir.Model:
    """The prepared graph; `model` stays as it is. The same model always gives the same bytes."""
    prepared = model.clone()
    with _quiet("onnxscript", "onnx_ir"):
        _apply(prepared, (common.InlinePass(), common.ShapeInferencePass(), ExplicitPadding()))
        _simplify(prepared)
        _apply(
            prepared,
            (
                FoldAffine(),
                RecognizeLayerNorm(),
                RecognizeFunctions(),
                GlobalPooling(),
                MarkAttention(),
            ),
        )
        _simplify(prepared)
        _apply(
            prepared,
            (
                common.DeduplicateInitializersPass(),
                common.CommonSubexpressionEliminationPass(),
                common.OutputFixPass(),
                common.RemoveUnusedOpsetsPass(),
            ),
        )
        _name_nodes(prepared.graph)
        _apply(prepared, (common.NameFixPass(), common.ShapeInferencePass()))
    _remove_traces(prepared.graph)
    return prepared


def _simplify(model: ir.Model) -> None:
    """Fold constants, remove identities and dead code, infer shapes; nodes keep their names."""
    known = dict.fromkeys(model.graph.all_nodes())
    names = {v.name: node.name for node in known for v in node.outputs}
    for _ in range(2):  # what one round simplifies, a second may fold
        optimizer.fold_constants(
            model,
            onnx_shape_inference=True,
            input_size_limit=_UNLIMITED,
            output_size_limit=_UNLIMITED,
            should_fold=_is_worth_storing,
        )
        rewriter.rewrite(model, pattern_rewrite_rules=list(_RULES))
        _apply(
            model,
            (
                common.IdentityEliminationPass(),
                common.RemoveUnusedNodesPass(),
                common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
                common.LiftSubgraphInitializersToMainGraphPass(),
            ),
        )
    for node in model.graph.all_nodes():
        if node not in known:
            node.name = names.get(node.outputs[0].name, node.name)


def _is_worth_storing(node: ir.Node) -> bool | None:
    """Whether a node of constant inputs becomes a constant; None leaves it to the optimizer.

    Not if the output is large, and larger than all that it is computed from. The optimizer keeps
    ConstantOfShape, on which whatever is computed from it (masks, for example) then depends.
    """
    shape = node.outputs[0].shape
    if len(node.outputs) != 1 or shape is None or not shape.is_static():
        return None
    size = math.prod(shape.numpy())
    given = sum(v.const_value.size for v in node.inputs if v is not None and v.const_value)
    if size > max(given, _LARGEST_GROWTH):
        return False
    return True if node.op_type == "ConstantOfShape" else None


def _apply(model: ir.Model, passes: Sequence[ir.passes.PassBase]) -> None:
    for step in passes:
        step(model)


@contextmanager
def _quiet(*loggers: str) -> Iterator[None]:
    """Keep the libraries' remarks, on what they leave alone and why, from the user."""
    levels = {name: logging.getLogger(name).level for name in loggers}
    for name in loggers:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _name_nodes(graph: ir.Graph) -> None:
    """Give every node a name of its own: that of its module or output where it has none."""
    nodes = list(graph.all_nodes())
    taken = {node.name for node in nodes if node.name}
    seen: set[str] = set()
    for node in nodes:
        module, output = node.metadata_props.get("intact.module"), node.outputs[0].name
        stem = node.name or module or output or node.op_type
        name, i = stem, 1
        while name in seen or (name != node.name and name in taken):
            i += 1
            name = f"{stem}_{i}"
        node.name = name
        seen.add(name)


def _remove_traces(graph: ir.Graph) -> None:
    """Remove the notes on applied rules that onnxscript leaves on nodes and values."""
    notes = [node.metadata_props for node in graph.all_nodes()]
    notes += [value.metadata_props for node in graph.all_nodes() for value in node.outputs]
    notes += [value.metadata_props for value in graph.initializers.values()]
    for properties in notes:
        for key in [key for key in properties if key.startswith("pkg.onnxscript")]:
            del properties[key]
