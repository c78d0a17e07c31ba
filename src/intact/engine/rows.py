"""Rows that their readers see in another order than memory has them in.

Matrix products, and what follows them value by value, do not mind the order of rows: they are
computed as the rows lie, and their results are seen as their readers want them. So a model that
transposes batch and sequence before its products, and back behind them, copies nothing.
"""

from dataclasses import dataclass, replace
from typing import Final

from intact.engine.program import BYTES, Tensor, new_tensor
from intact.engine.values import Product, Stored, Value
from intact.engine.view import View

__all__ = [
    "ALONG_ROWS",
    "VIEWERS",
    "Ordered",
    "Scattered",
    "in_memory",
    "ordered",
    "seen",
    "settled",
    "turned",
]

# Operators that only see values otherwise, or take them in any order.
VIEWERS: Final = frozenset(
    {
        "DynamicMatMul", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Slice", "Split",
        "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
# Operators of one value, and perhaps of constants.
ALONG_ROWS: Final = frozenset(
    {
        "Add", "Clip", "Div", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mul", "Relu",
        "Sigmoid", "Softplus", "Sub", "Swish", "Tanh",
    }
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scattered(Value):
    """float32 in memory that no strides can say the order of."""

    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape


@dataclass(frozen=True, eq=False)
class Ordered(Value):
    """An unfinished product [rows, columns] whose rows are seen in another order.

    view: of a tensor of that shape, which the result will be.
    """

    product: Product
    view: View

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape


def seen(view: View) -> Stored | Scattered:
    """float32 as a view has it; by strides, if they can say it."""
    strides = view.strides
    if strides is None:
        return Scattered(view)
    return Stored(view.tensor, view.shape, strides, view.offset)


def in_memory(view: View) -> Tensor | None:
    """The rows [rows, columns] in the order of memory; None where they are not all there is."""
    columns = view.shape[-1]
    size = view.tensor.size
    whole = view.tensor.storage.bytes == size * BYTES[view.tensor.dtype]
    if not whole or columns < 2 or not view.is_dense or view.last != ((columns, 1),):
        return None
    return Tensor(view.tensor.storage, (size // columns, columns), view.tensor.dtype)


def turned(x: Stored | Scattered) -> Tensor | None:
    """The rows of floats that are seen in another order than they lie in; None if they are not."""
    plain = Tensor(x.view.tensor.storage, x.shape, "float32")
    if x.view.tensor.dtype != "float32" or x.view.fills(plain):
        return None
    return in_memory(x.view)


def ordered(product: Product, rows: View) -> Product | Ordered:
    """A product of rows as they lie, seen as `rows` (of what it was computed from) are.

    product: [rows, columns].
    """
    count, columns = product.shape
    before = rows.shape[-1]
    axes = [
        tuple((n, stride // before * columns) for n, stride in digits) for digits in rows.axes[:-1]
    ]
    tensor = new_tensor((count, columns), "float32")
    return settled(Ordered(product, View(tensor, (*axes, ((columns, 1),)))))


def settled(x: Ordered) -> Product | Ordered:
    """The product itself, if its rows are seen in their own order."""
    tensor = Tensor(x.view.tensor.storage, x.shape, "float32")
    same = x.shape[-1] == x.product.shape[-1] and x.view.fills(tensor)
    return replace(x.product, out_shape=x.shape) if same else x
