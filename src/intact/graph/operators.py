"""One table of what each ONNX operator may do when quantized.

Adding an operator to intact begins with a row here; a test walks the table to see that the integer
reference (and later the engine) know every row.
"""

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["OPERATORS", "Kind", "Operator"]

Kind = Literal["weighted", "recurrent", "unary", "arithmetic", "concat", "view", "float"]


@dataclass(frozen=True)
class Operator:
    """What an operator may do when quantized.

    kind:
        weighted: integer products of an activation (input 0) and a constant weight (input 1).
        recurrent: LSTM and GRU; weights are inputs 1 and 2. Dynamic, or in float.
        unary: one activation, element by element; a table of 256 entries when quantized.
        arithmetic: one or more activations, output with a range of its own.
        concat: inputs are copied side by side; parameters are shared where ranges allow.
        view: values move but do not change (or only the larger ones remain), so the output has
            its input's parameters.
        float: always computed in float; listed for its known range.
    convolution: the output goes on in integers to the next operator (see DESIGN, exact arithmetic).
    bias: input index of the bias, None if the operator has none.
    absorbed: a preceding convolution or sum applies it while it rescales, so nothing is quantized
        in between.
    range: the output's range, where it is known without calibration.
    flat_below: the function is constant below this input, so smaller ones need not be told apart.
    """

    kind: Kind
    convolution: bool = False
    bias: int | None = None
    absorbed: bool = False
    range: tuple[float, float] | None = None
    flat_below: float | None = None


_VIEWS: Final = [
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
]

OPERATORS: Final[dict[str, Operator]] = {
    "Conv": Operator("weighted", convolution=True, bias=2),
    "ConvTranspose": Operator("weighted", convolution=True, bias=2),
    "Gemm": Operator("weighted", bias=2),
    "MatMul": Operator("weighted"),
    "LSTM": Operator("recurrent", bias=3),
    "GRU": Operator("recurrent", bias=3),
    "Relu": Operator("unary", absorbed=True),
    "Clip": Operator("unary", absorbed=True),
    "LeakyRelu": Operator("unary"),
    "Elu": Operator("unary"),
    "Gelu": Operator("unary"),
    "HardSwish": Operator("unary", flat_below=-3.0),
    "Mish": Operator("unary"),
    "Softplus": Operator("unary"),
    "Sigmoid": Operator("unary", range=(0.0, 1.0)),
    "HardSigmoid": Operator("unary", range=(0.0, 1.0)),
    "Tanh": Operator("unary", range=(-1.0, 1.0)),
    "Softmax": Operator("float", range=(0.0, 1.0)),
    "Add": Operator("arithmetic"),
    "Sub": Operator("arithmetic"),
    "Mul": Operator("arithmetic"),
    "Div": Operator("arithmetic"),
    "PRelu": Operator("arithmetic"),
    "BatchNormalization": Operator("arithmetic"),
    "AveragePool": Operator("arithmetic"),
    "GlobalAveragePool": Operator("arithmetic"),
    "GlobalMaxPool": Operator("view"),
    "Resize": Operator("arithmetic"),
    "Concat": Operator("concat"),
    **{name: Operator("view") for name in _VIEWS},
}
