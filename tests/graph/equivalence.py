"""The one law of preparation: what a model computes stays the same."""

import numpy as np
import onnx_ir as ir
import torch

from intact.graph.prepare import prepare
from tests.graphs import Feeds, run


def prepared(model: ir.Model, *batches: Feeds, tolerance: float = 1e-5) -> ir.Model:
    """`prepare(model)`, after asserting that it computes what `model` does, has the same inputs
    and outputs, and a unique name for each node and value."""
    result = prepare(model)
    assert [v.name for v in result.graph.inputs] == [v.name for v in model.graph.inputs]
    assert [v.name for v in result.graph.outputs] == [v.name for v in model.graph.outputs]
    nodes = list(result.graph.all_nodes())
    names = [node.name for node in nodes]
    assert all(names)
    assert len(set(names)) == len(names)
    values = [v.name for node in nodes for v in node.outputs]
    values += [*result.graph.initializers, *(v.name for v in result.graph.inputs)]
    assert len(set(values)) == len(values)
    for feeds in batches:
        for before, after in zip(run(model, feeds), run(result, feeds), strict=True):
            assert before.shape == after.shape
            assert before.dtype == after.dtype
            finite = np.abs(before[np.isfinite(before)])
            margin = tolerance * float(finite.max(initial=1e-3))
            np.testing.assert_allclose(after, before, rtol=0, atol=margin)
    return result


def operators(model: ir.Model) -> list[str]:
    """The operators of the main graph, in order."""
    return [node.op_type for node in model.graph]


def randomize(model: torch.nn.Module) -> torch.nn.Module:
    """The model with the normalizations of a trained one, ready for inference."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
            if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.LayerNorm):
                module.weight.data.uniform_(0.5, 1.5)
                module.bias.data.normal_(0, 0.2)
    return model.eval()
