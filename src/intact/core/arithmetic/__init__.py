"""The exact integer arithmetic of every quantized operator, which runtimes are held to.

Sums are exact integers that must fit int32. They become the next integers, or floats, by one
rule in float32 (`rescale`), rounding half to even, as ONNX defines quantization.
Written to be read beside the formulas, not to be fast.
"""

from intact.core.arithmetic.convolution import conv, conv_transpose
from intact.core.arithmetic.dynamic import (
    dynamic_conv,
    dynamic_conv_transpose,
    dynamic_matmul,
    dynamic_quantize,
)
from intact.core.arithmetic.pointwise import (
    FUNCTIONS,
    add,
    batch_normalization,
    concat,
    div,
    lookup,
    mul,
    prelu,
    requantize,
    sub,
    table,
)
from intact.core.arithmetic.pooling import (
    average_pool,
    global_average_pool,
    global_max_pool,
    max_pool,
)
from intact.core.arithmetic.product import gemm, matmul
from intact.core.arithmetic.recurrent import gru, lstm
from intact.core.arithmetic.rescale import accumulator_bounds, centered, require_int32, rescale
from intact.core.arithmetic.resize import resize

__all__ = [
    "FUNCTIONS",
    "accumulator_bounds",
    "add",
    "average_pool",
    "batch_normalization",
    "centered",
    "concat",
    "conv",
    "conv_transpose",
    "div",
    "dynamic_conv",
    "dynamic_conv_transpose",
    "dynamic_matmul",
    "dynamic_quantize",
    "gemm",
    "global_average_pool",
    "global_max_pool",
    "gru",
    "lookup",
    "lstm",
    "matmul",
    "max_pool",
    "mul",
    "prelu",
    "requantize",
    "require_int32",
    "rescale",
    "resize",
    "sub",
    "table",
]
