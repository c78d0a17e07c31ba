"""Dynamic operators, written once as ONNX functions over standard operators (domain `intact`).

Every runtime inlines and runs them; intact's own engine knows them by name. Activation parameters
are computed per row (last axis) for matrix products and per sample (first axis) for convolutions,
so a result does not depend on what else is in the batch. The parameters are those of ONNX's
DynamicQuantizeLinear; the zero point's share of the sum is subtracted as `zero_point * sum(weight)`
because MatMulInteger and ConvInteger take one zero point for the whole tensor.

A convolution pads the float input with zeros before it is quantized: zero is exactly
representable, so the padding holds the zero point, which differs from sample to sample.

LSTM and GRU quantize the hidden state like any other row, at each step: it lies in [-1, 1] by its
definition, but seldom fills that. Gates and the cell state stay float.
"""

from functools import cache
from typing import Final

import onnx.parser
import onnx_ir as ir
from onnx_ir import serde

__all__ = ["DOMAIN", "function"]

DOMAIN: Final = "intact"
_HEADER: Final = f'<domain: "{DOMAIN}", opset_import: ["" : 21, "{DOMAIN}" : 1]>'

# {axes} is computed before; gives q (uint8), point (float, whole) and step (float).
_QUANTIZE: Final = """
    zero = Constant <value = float {0.0}> ()
    top = Constant <value = float {255.0}> ()
    one = Constant <value = float {1.0}> ()
    smallest = Constant <value = float {1.1754943508222875e-38}> ()
    least = ReduceMin <keepdims = 1> (x, axes)
    most = ReduceMax <keepdims = 1> (x, axes)
    low = Min (least, zero)
    high = Max (most, zero)
    width = Sub (high, low)
    wanted = Div (width, top)
    degenerate = Less (wanted, smallest)
    step = Where (degenerate, one, wanted)
    below = Neg (low)
    shift = Div (below, step)
    nearest = Round (shift)
    point = Clip (nearest, zero, top)
"""
_ROUND: Final = """
    ratio = Div ({x}, step)
    rounded = Round (ratio)
    moved = Add (rounded, point)
    clamped = Clip (moved, zero, top)
"""
_RESCALE: Final = """
    point_integer = Cast <to = 6> (point)
    share = Mul (point_integer, weight_sum)
    sum = Sub (raw, share)
    real = Cast <to = 1> (sum)
    factor = Mul (step, weight_scale)
    y = Mul (real, factor)
"""
# All axes but the first. They are an attribute of the call, because ONNX Runtime infers a wrong
# shape for `Range(1, rank)` and warns of it.
_SAMPLE_AXES: Final = "axes = Constant <value_ints: ints = @axes> ()"

_MATMUL: Final = f"""
DynamicMatMul (x, weight, weight_scale, weight_sum) => (y) {{
    axes = Constant <value = int64[1] {{-1}}> ()
    {_QUANTIZE}
    {_ROUND.format(x="x")}
    q = Cast <to = 2> (clamped)
    raw = MatMulInteger (q, weight)
    {_RESCALE}
}}"""

_CONV: Final = f"""
DynamicConv <axes, strides, dilations, group, pads> (x, weight, weight_scale, weight_sum) => (y) {{
    {_SAMPLE_AXES}
    {_QUANTIZE}
    pads = Constant <value_ints: ints = @pads> ()
    padded = Pad (x, pads)
    {_ROUND.format(x="padded")}
    q = Cast <to = 2> (clamped)
    raw = ConvInteger <strides: ints = @strides, dilations: ints = @dilations, group: int = @group>
        (q, weight)
    {_RESCALE}
}}"""

# ONNX has no integer form of ConvTranspose: whole numbers are multiplied and added in float32,
# which is exact up to 2**24.
_CONV_TRANSPOSE: Final = f"""
DynamicConvTranspose <axes, strides, dilations, group, pads, output_padding>
        (x, weight, weight_scale) => (y) {{
    {_SAMPLE_AXES}
    {_QUANTIZE}
    {_ROUND.format(x="x")}
    centered = Sub (clamped, point)
    weight_whole = Cast <to = 1> (weight)
    whole = ConvTranspose <strides: ints = @strides, dilations: ints = @dilations,
        group: int = @group, pads: ints = @pads, output_padding: ints = @output_padding>
        (centered, weight_whole)
    factor = Mul (step, weight_scale)
    y = Mul (whole, factor)
}}"""

_LSTM: Final = f"""
DynamicLSTM <directions>
        (x, weight, weight_scale, weight_sum, recurrence, recurrence_scale,
         recurrence_sum, bias, h0, c0)
        => (y, y_h, y_c) {{
    product = {DOMAIN}.DynamicMatMul (x, weight, weight_scale, weight_sum)
    projected = Add (product, bias)
    y_h, y_c, y = Scan <num_scan_inputs = 1, scan_input_directions: ints = @directions,
            scan_output_directions: ints = @directions,
            body = step (float[b, n] h, float[b, n] c, float[b, m] from_x)
                => (float[b, n] h_next, float[b, n] c_next, float[b, n] out) {{
        from_h = {DOMAIN}.DynamicMatMul (h, recurrence, recurrence_scale, recurrence_sum)
        gates = Add (from_x, from_h)
        i, o, f, g = Split <axis = -1, num_outputs = 4> (gates)
        i_gate = Sigmoid (i)
        o_gate = Sigmoid (o)
        f_gate = Sigmoid (f)
        g_gate = Tanh (g)
        kept = Mul (f_gate, c)
        added = Mul (i_gate, g_gate)
        c_next = Add (kept, added)
        squashed = Tanh (c_next)
        h_next = Mul (o_gate, squashed)
        out = Identity (h_next)
    }}> (h0, c0, projected)
}}"""

_GRU: Final = f"""
DynamicGRU <directions>
        (x, weight, weight_scale, weight_sum, recurrence, recurrence_scale,
         recurrence_sum, bias, recurrence_bias,
         h0) => (y, y_h) {{
    product = {DOMAIN}.DynamicMatMul (x, weight, weight_scale, weight_sum)
    projected = Add (product, bias)
    y_h, y = Scan <num_scan_inputs = 1, scan_input_directions: ints = @directions,
            scan_output_directions: ints = @directions,
            body = step (float[b, n] h, float[b, m] from_x)
                => (float[b, n] h_next, float[b, n] out) {{
        from_h = {DOMAIN}.DynamicMatMul (h, recurrence, recurrence_scale, recurrence_sum)
        biased_h = Add (from_h, recurrence_bias)
        z_x, r_x, n_x = Split <axis = -1, num_outputs = 3> (from_x)
        z_h, r_h, n_h = Split <axis = -1, num_outputs = 3> (biased_h)
        z_sum = Add (z_x, z_h)
        z = Sigmoid (z_sum)
        r_sum = Add (r_x, r_h)
        r = Sigmoid (r_sum)
        reset = Mul (r, n_h)
        n_sum = Add (n_x, reset)
        n = Tanh (n_sum)
        difference = Sub (h, n)
        kept = Mul (z, difference)
        h_next = Add (n, kept)
        out = Identity (h_next)
    }}> (h0, projected)
}}"""

_TEXTS: Final = {
    "DynamicMatMul": _MATMUL,
    "DynamicConv": _CONV,
    "DynamicConvTranspose": _CONV_TRANSPOSE,
    "DynamicLSTM": _LSTM,
    "DynamicGRU": _GRU,
}


@cache
def _proto(name: str) -> onnx.FunctionProto:
    return onnx.parser.parse_function(_HEADER + _TEXTS[name])


def function(name: str) -> ir.Function:
    """The function `intact.<name>`, a fresh copy."""
    return serde.deserialize_function(_proto(name))
