"""The few edits of a graph that every emitter makes: new constants and nodes, uniquely named."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from intact.core.qparams import QParams

__all__ = ["Builder", "integers"]


class Builder:
    """Adds constants and nodes to one graph, and remembers the names that are taken."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self._taken = {v.name for v in graph.inputs} | set(graph.initializers)
        self._taken |= {v.name for node in graph for v in node.outputs}
        self._taken |= {node.name for node in graph}

    def unique(self, name: str) -> str:
        """`name`, with a number behind it if it is taken already."""
        chosen, i = name, 1
        while chosen in self._taken:
            i += 1
            chosen = f"{name}_{i}"
        self._taken.add(chosen)
        return chosen

    def constant(self, name: str, array: NDArray[Any] | np.generic) -> ir.Value:
        """A new initializer."""
        tensor = ir.tensor(np.asarray(array, order="C"), name=self.unique(name))
        value = ir.Value(
            name=tensor.name,
            shape=ir.Shape(np.shape(array)),
            type=ir.TensorType(tensor.dtype),
            const_value=tensor,
        )
        self.graph.register_initializer(value)
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        *,
        before: ir.Node | None = None,
        after: ir.Node | None = None,
        like: ir.Value | None = None,
        dtype: ir.DataType | None = None,
        domain: str = "",
        attributes: Mapping[str, int | float | str | Sequence[int]] | None = None,
    ) -> ir.Value:
        """A new node of one output, named like the node, placed before `before` or after `after`.

        Without either it comes first.

        like: the value whose type and shape the output has; dtype: its type, if it differs.
        """
        label = self.unique(name)
        output = ir.Value(
            name=label,
            shape=None if like is None else like.shape,
            type=ir.TensorType(dtype) if dtype is not None else None if like is None else like.type,
        )
        node = ir.node(
            op_type,
            list(inputs),
            attributes=attributes,
            domain=domain,
            outputs=[output],
            name=label,
        )
        if after is not None:
            self.graph.insert_after(after, node)
        else:
            self.graph.insert_before(self.graph[0] if before is None else before, node)
        return output


def integers(weight: NDArray[np.float32], qparams: QParams, unsigned: bool) -> NDArray[Any]:
    """A weight's integers: `clamp(rne(w / scale), -127, 127)` as int8.

    unsigned: the same integers plus 128 as uint8, for kernels that saturate on int8.
    """
    scale, _ = qparams.broadcast(weight.ndim)
    whole = np.clip(np.rint(weight / scale), -127, 127)
    stored: NDArray[Any] = (whole + 128).astype(np.uint8) if unsigned else whole.astype(np.int8)
    return stored
