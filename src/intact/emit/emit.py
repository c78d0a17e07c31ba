"""Carrying out a plan: Graph + Plan -> quantized ONNX."""

import json
from typing import Final, Literal, get_args

import onnx_ir as ir
from onnx_ir.passes import common

from intact.core.errors import PlanError
from intact.core.plan import Plan
from intact.emit.dynamic import emit_dynamic
from intact.emit.functions import DOMAIN, function
from intact.emit.qdq import emit_static

__all__ = ["TARGETS", "Target", "emit"]

Target = Literal["portable", "onnxruntime", "onnxruntime-no-vnni"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)


def emit(graph: ir.Model, plan: Plan, target: Target = "portable") -> ir.Model:
    """The quantized model; `graph` stays as it is.

    target:
        "portable": standard QDQ, and intact's functions for dynamic operators; for any runtime.
        "onnxruntime": dynamic operators in the form that ONNX Runtime is fast with, which is one
            scale for the whole tensor, so results depend on what else is in the batch.
        "onnxruntime-no-vnni": like it, with weights as uint8: on x86 CPUs without VNNI ONNX
            Runtime adds pairs of uint8 * int8 products in 16 bits, which saturates silently, but
            widens uint8 * uint8 first. The integers' meaning, and so the result, is the same.

    Raises PlanError if the plan names operators that the graph does not have, or cannot be
    carried out.
    """
    if target not in TARGETS:
        raise PlanError(f"target is '{target}'; it must be one of {', '.join(TARGETS)}")
    names = {node.name for node in graph.graph}
    unknown = [name for name in plan if name not in names]
    if unknown:
        raise PlanError(
            f"the plan decides on operator '{unknown[0]}', which the model does not have; "
            "plans belong to the model that they were made for"
        )
    quantized = _copy(graph)
    unsigned = target == "onnxruntime-no-vnni"
    used = emit_dynamic(quantized.graph, plan, native=target != "portable", unsigned=unsigned)
    emit_static(quantized.graph, plan, unsigned)
    if used:
        quantized.graph.opset_imports[DOMAIN] = 1
    if any(node.domain == "com.microsoft" for node in quantized.graph):
        quantized.graph.opset_imports["com.microsoft"] = 1
    for name in sorted(used):
        body = function(name)
        quantized.functions[body.identifier()] = body
    common.RemoveUnusedNodesPass()(quantized)
    quantized.metadata_props["intact.target"] = target
    quantized.metadata_props["intact.decisions"] = json.dumps(
        {
            name: {
                "mode": d.mode,
                "op_type": d.op_type,
                "reason": d.reason,
                "weights": [tensor for tensor in d.tensors if tensor in graph.graph.initializers],
                "activations": [t for t in d.tensors if t not in graph.graph.initializers],
            }
            for name, d in plan.decisions.items()
        }
    )
    return quantized


def _copy(model: ir.Model) -> ir.Model:
    """A copy of the graph that shares the weights' memory."""
    return ir.Model(
        model.graph.clone(),
        ir_version=max(model.ir_version, 10),
        producer_name="intact",
        functions=[f.clone() for f in model.functions.values()],
    )
