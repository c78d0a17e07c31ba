"""From a captured graph to the form that the other rooms rely on.

Afterwards constants are initializers, batch normalization is part of the convolution before it,
composite functions are single operators, every value has a shape as far as it can be inferred, and
every node and value has a unique name.
"""

import logging
from collections.abc import Sequence

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules

from intact.graph.passes import (
    ExplicitPadding,
    GlobalPooling,
    MarkAttention,
    RecognizeFunctions,
    RecognizeLayerNorm,
)

__all__ = ["prepare"]

# Weights of a recurrent layer are written by PyTorch as slices of others and must become constant;
# nothing larger than this (in bytes) is worth storing instead of computing.
_LARGEST_CONSTANT = 1 << 28

_RULES = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
    rules.conv_affine_fusion_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.dropout_inference_rule,
    rules.dropout_zero_rule,
    rules.successive_relu_rule,
    rules.successive_clip_rule,
    rules.successive_relu_clip_rule,
    rules.successive_clip_relu_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
)


def prepare(model: ir.Model) -> ir.Model:
    """The prepared graph; `model` stays as it is. The same model always gives the same bytes."""
    prepared = model.clone()
    optimizer_log = logging.getLogger("onnxscript")
    level = optimizer_log.level
    optimizer_log.setLevel(logging.ERROR)
    try:
        common.InlinePass()(prepared)
        _fold(prepared)
        _apply(prepared, (ExplicitPadding(),))
        rewriter.rewrite(prepared, pattern_rewrite_rules=list(_RULES))
        _fold(prepared)
        _apply(
            prepared,
            (RecognizeLayerNorm(), RecognizeFunctions(), GlobalPooling(), MarkAttention()),
        )
        _fold(prepared)
    finally:
        optimizer_log.setLevel(level)
    _apply(
        prepared,
        (
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
            common.RemoveUnusedNodesPass(),
            common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
            common.RemoveUnusedOpsetsPass(),
            common.NameFixPass(),
            common.ShapeInferencePass(),
        ),
    )
    _name_nodes(prepared.graph)
    return prepared


def _fold(model: ir.Model) -> None:
    """Fold constants, remove identities and dead code, infer shapes."""
    optimizer.optimize_ir(
        model,
        input_size_limit=_LARGEST_CONSTANT,
        output_size_limit=_LARGEST_CONSTANT,
        onnx_shape_inference=True,
    )


def _apply(model: ir.Model, passes: Sequence[ir.passes.PassBase]) -> None:
    for step in passes:
        step(model)


def _name_nodes(graph: ir.Graph) -> None:
    """Give nodes that a rewriting left nameless the name of their module or output."""
    taken = {node.name for node in graph if node.name}
    seen: set[str] = set()
    for node in graph:
        stem = node.name or node.metadata_props.get("intact.module") or str(node.outputs[0].name)
        name, i = stem, 1
        while name in seen or (name != node.name and name in taken):
            i += 1
            name = f"{stem}_{i}"
        node.name = name
        seen.add(name)
