"""Means over all positions, in the one form that kernels know."""

import onnx_ir as ir

__all__ = ["GlobalPooling"]


class GlobalPooling(ir.passes.InPlacePass):
    """Writes means over all spatial axes as GlobalAveragePool.

    1. ReduceMean of a value of known rank over axes 2, 3, ... to the last, with keepdims=1,
       becomes GlobalAveragePool.
    2. With keepdims=0 a Flatten from axis 1 follows.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rules to the whole graph."""
        modified = False
        for node in list(model.graph):
            if _is_global(node):
                _replace(model.graph, node)
                modified = True
        return ir.passes.PassResult(model, modified)


def _is_global(node: ir.Node) -> bool:
    x = node.inputs[0] if node.op_type == "ReduceMean" and len(node.inputs) == 2 else None
    if x is None or x.shape is None or len(x.shape) < 3 or x.dtype != ir.DataType.FLOAT:
        return False
    axes = node.inputs[1].const_value if node.inputs[1] is not None else None
    rank = len(x.shape)
    return axes is not None and sorted(int(a) % rank for a in axes.numpy().reshape(-1)) == list(
        range(2, rank)
    )


def _replace(graph: ir.Graph, node: ir.Node) -> None:
    x, output = node.inputs[0], node.outputs[0]
    assert x is not None
    assert x.shape is not None
    keep = node.attributes.get("keepdims")
    pool = ir.node("GlobalAveragePool", [x], name=node.name)
    pool.metadata_props.update(node.metadata_props)
    new = [pool]
    if keep is not None and keep.as_int() == 0:
        pool.outputs[0].name = f"{output.name}_pooled"
        pool.outputs[0].type = x.type
        pool.outputs[0].shape = ir.Shape([*x.shape[:2], *[1] * (len(x.shape) - 2)])
        new.append(ir.node("Flatten", [pool.outputs[0]], name=f"{node.name}.flatten"))
    last = new[-1].outputs[0]
    last.name, last.type, last.shape = output.name, output.type, output.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], new, [output], [last])
