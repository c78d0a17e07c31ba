"""Dynamic operators agree with ONNX's DynamicQuantizeLinear, row by row and sample by sample."""

from typing import Any

import numpy as np
import onnx.parser
import onnxruntime
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from runtime import options, quick

from intact.core import arithmetic

seeds = st.integers(0, 2**32 - 1)
# Rows of very different size beside one another, and rows on one side of zero.
magnitudes = st.sampled_from([1e-30, 1e-3, 1.0, 1e4, 1e30])
sides = st.sampled_from([None, 0.0, -1.0])


def activation(
    seed: int, shape: tuple[int, ...], magnitude: float, side: float | None
) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * np.exp(
        rng.standard_normal((shape[0], *[1] * (len(shape) - 1)))
    )
    x = x if side is None else np.abs(x) * (2 * side + 1)
    return (magnitude * x).astype(np.float32)


def weights(seed: int, shape: tuple[int, ...]) -> NDArray[np.int8]:
    rng = np.random.default_rng(seed + 1)
    return rng.choice([-127, 127, *range(-127, 128)], shape).astype(np.int8)


def run(body: str, inputs: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The outputs of a graph, given as text, in ONNX Runtime without optimization."""
    model = onnx.parser.parse_model('<ir_version: 10, opset_import: ["": 21]>' + body)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options(optimized=False))
    results: list[NDArray[Any]] = session.run(None, inputs)
    return results


QUANTIZE = """
g (float[...] x) => (uint8[...] q, float scale, uint8 point) {
    q, scale, point = DynamicQuantizeLinear (x)
}"""


@quick
@given(seeds, st.integers(1, 4), st.integers(1, 40), magnitudes, sides)
def test_each_row_is_quantized_as_onnx_quantizes_a_tensor(
    seed: int, rows: int, length: int, magnitude: float, side: float | None
) -> None:
    x = activation(seed, (rows, length), magnitude, side)
    q, scale, point = arithmetic.dynamic_quantize(x, (1,))
    for i, row in enumerate(x):
        theirs_q, theirs_scale, theirs_point = run(QUANTIZE.replace("[...]", "[N]"), {"x": row})
        np.testing.assert_array_equal(scale[i, 0], theirs_scale)
        np.testing.assert_array_equal(point[i, 0], theirs_point)
        np.testing.assert_array_equal(q[i], theirs_q)


def test_rows_of_zeros_and_of_subnormals_have_scale_one() -> None:
    x = np.array([[0, 0], [-0.0, 0], [1e-40, -1e-40], [1.17e-38, 0]], np.float32)
    q, scale, point = arithmetic.dynamic_quantize(x, (1,))
    assert (scale == 1).all()
    assert (q == 0).all()
    assert (point == 0).all()


@quick
@given(seeds, st.integers(1, 50), st.integers(1, 9), magnitudes, sides)
def test_dynamic_matmul(seed: int, k: int, n: int, magnitude: float, side: float | None) -> None:
    x = activation(seed, (3, 2, k), magnitude, side)
    w_q, rng = weights(seed, (k, n)), np.random.default_rng(seed)
    scale, bias = rng.uniform(1e-3, 1, n).astype(np.float32), rng.standard_normal(n, np.float32)
    ours = arithmetic.dynamic_matmul(x, w_q, scale, bias)
    assert ours.dtype == np.float32
    # One row at a time, ONNX's per-tensor operators do the same.
    body = """
    g (float[1, K] x, int32[K, N] w, float[N] scale, float[N] bias) => (float[1, N] y) {
        q, x_scale, point = DynamicQuantizeLinear (x)
        q_whole = Cast <to = 6> (q)
        point_whole = Cast <to = 6> (point)
        centered = Sub (q_whole, point_whole)
        sum = MatMul (centered, w)
        real = Cast <to = 1> (sum)
        factor = Mul (x_scale, scale)
        product = Mul (real, factor)
        y = Add (product, bias)
    }"""
    for i in np.ndindex(3, 2):
        inputs = {"x": x[i][None], "w": w_q.astype(np.int32), "scale": scale, "bias": bias}
        np.testing.assert_array_equal(ours[i][None], run(body, inputs)[0])


@quick
@given(seeds, magnitudes, sides, st.sampled_from([1, 2]), st.booleans())
def test_dynamic_conv(
    seed: int, magnitude: float, side: float | None, group: int, transposed: bool
) -> None:
    x = activation(seed, (3, 4, 6, 5), magnitude, side)
    outputs = 6 // group if transposed else 6
    w_q = weights(seed, (4, outputs, 3, 2) if transposed else (6, 4 // group, 3, 2))
    rng = np.random.default_rng(seed)
    bias = (magnitude * rng.standard_normal(6)).astype(np.float32)
    scale = rng.uniform(1e-3, 1, outputs).astype(np.float32)
    geometry: dict[str, Any] = {
        "strides": [2, 1], "pads": [1, 0, 1, 1], "dilations": [1, 2], "group": group,
    }  # fmt: skip
    reference = arithmetic.dynamic_conv_transpose if transposed else arithmetic.dynamic_conv
    ours = reference(x, w_q, scale, bias, **geometry)
    shape = [1, -1, 1, 1] if transposed else [-1, 1, 1, 1]
    real_w = w_q.astype(np.float32) * scale.reshape(shape)
    attributes = ", ".join(f"{name} = {value}" for name, value in geometry.items())
    body = f"""
    g (float[1, C, H, W] x, float[...] w, float[M] bias) => (float[1, M, P, Q] y) {{
        q, x_scale, point = DynamicQuantizeLinear (x)
        real = DequantizeLinear (q, x_scale, point)
        y = {"ConvTranspose" if transposed else "Conv"} <{attributes}> (real, w, bias)
    }}""".replace("float[...]", "float[A, B, K, L]")
    for i in range(len(x)):
        theirs = run(body, {"x": x[i : i + 1], "w": real_w, "bias": bias})[0]
        limit = 1e-5 * np.abs(theirs).max()
        np.testing.assert_allclose(ours[i : i + 1], theirs, rtol=1e-5, atol=limit)


@quick
@given(seeds, magnitudes)
def test_a_result_does_not_depend_on_its_batch(seed: int, magnitude: float) -> None:
    x = activation(seed, (4, 3, 6), magnitude, None)
    one = np.ones((), np.float32)
    w_q = weights(seed, (6, 5))
    together = arithmetic.dynamic_matmul(x, w_q, one)
    alone = np.stack([arithmetic.dynamic_matmul(sample, w_q, one) for sample in x])
    np.testing.assert_array_equal(together, alone)
    kernel = weights(seed, (2, 3, 3))
    together = arithmetic.dynamic_conv(x, kernel, one)
    alone = np.concatenate([arithmetic.dynamic_conv(x[i : i + 1], kernel, one) for i in range(4)])
    np.testing.assert_array_equal(together, alone)
