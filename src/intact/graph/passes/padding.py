"""Padding as numbers."""

import onnx_ir as ir

__all__ = ["ExplicitPadding"]


class ExplicitPadding(ir.passes.InPlacePass):
    """Writes `auto_pad` of convolutions and pools as explicit `pads`.

    1. VALID becomes no padding.
    2. SAME_UPPER and SAME_LOWER become the padding that ONNX's specification computes, where the
       spatial sizes are known: `total = max((ceil(size / stride) - 1) * stride + span - size, 0)`
       with `span = (kernel - 1) * dilation + 1`, the odd one at the end or the beginning.
    3. Others stay.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Apply the rules to the whole graph."""
        modified = False
        for node in model.graph:
            if node.op_type in ("Conv", "MaxPool", "AveragePool") and "auto_pad" in node.attributes:
                pads = _pads(node)
                if pads is not None:
                    del node.attributes["auto_pad"]
                    node.attributes["pads"] = ir.AttrInt64s("pads", pads)
                    modified = True
        return ir.passes.PassResult(model, modified)


def _pads(node: ir.Node) -> list[int] | None:
    mode = node.attributes["auto_pad"].as_string()
    kernel = _kernel(node)
    if kernel is None:
        return None
    if mode == "NOTSET":
        given = node.attributes.get("pads")
        return [0] * 2 * len(kernel) if given is None else list(given.as_ints())
    if mode == "VALID":
        return [0] * 2 * len(kernel)
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if shape is None:
        return None
    begin, end = [], []
    for i, width in enumerate(kernel):
        size = shape[2 + i]
        if not isinstance(size, int):
            return None
        stride, dilation = _entry(node, "strides", i), _entry(node, "dilations", i)
        span = (width - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + span - size, 0)
        small, large = total // 2, total - total // 2
        begin.append(small if mode == "SAME_UPPER" else large)
        end.append(large if mode == "SAME_UPPER" else small)
    return [*begin, *end]


def _kernel(node: ir.Node) -> list[int] | None:
    attribute = node.attributes.get("kernel_shape")
    if attribute is not None:
        return list(attribute.as_ints())
    weight = node.inputs[1].shape if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return None if weight is None else [int(d) for d in weight[2:]]  # type: ignore[arg-type]


def _entry(node: ir.Node, name: str, index: int) -> int:
    attribute = node.attributes.get(name)
    return 1 if attribute is None else int(attribute.as_ints()[index])
