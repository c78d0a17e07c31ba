#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace intact {

// Bytes beyond the end of a tensor that kernels may read (never write): one vector.
constexpr std::size_t kSlack = 64;

// From exact sums to integers: clamp(rne(float32(sum + bias) * scale), low, high) + zero_point,
// where low and high are relative to the zero point. bias and scale: one per column.
struct Requantize {
  const std::int32_t* bias;
  const float* scale;
  float low, high;
  std::int32_t zero_point;
};

// From exact sums to floats: float32(sum + bias) * scale + shift. shift may be null.
struct Dequantize {
  const std::int32_t* bias;
  const float* scale;
  const float* shift;
};

// As Dequantize, for rows that were quantized one by one:
// float32(sum - zero_points[row] * weight_sums) * (scales[row] * scale) + shift.
struct DequantizeRows {
  const std::int32_t* weight_sums;
  const float* scale;
  const float* shift;  // may be null
  const float* scales;
  const std::int32_t* zero_points;
};

// Functions of one float32; alpha and beta are those of ONNX (for kClip, the ends).
enum class Unary {
  kClip, kGelu, kGeluTanh, kHardSigmoid, kHardSwish, kLeakyRelu, kRelu, kSigmoid, kSwish, kTanh
};

// One head of attention: softmax(q k^T * scale + mask) v. Strides are in floats, from row to row;
// within a row values are adjacent.
struct Attention {
  const float *q, *k, *v, *mask;  // mask [queries][keys], or null
  std::size_t q_stride, k_stride, v_stride, mask_stride;
  std::size_t queries, keys, width, v_width;
  float scale;
  bool empty_is_zero;  // where the mask leaves a query no key: zeros instead of NaN
  float* y;
  std::size_t y_stride;
};

// clamp(rne((a.scale * (a - a.zero_point) + b.scale * (b - b.zero_point)) / scale)) + zero_point.
struct Sum {
  float a_scale, b_scale, scale;
  std::int32_t a_zero_point, b_zero_point;
  float low, high;
  std::int32_t zero_point;
};

// clamp(rne(float32((a - a_zero_point) * (b - b_zero_point)) * scale)) + zero_point.
struct Product {
  std::int32_t a_zero_point, b_zero_point;
  float scale;
  float low, high;
  std::int32_t zero_point;
};

// Where the windows of a convolution lie, for gathering them.
struct Patches {
  std::size_t height, width, pixel;  // `pixel`: bytes from one pixel to the next
  std::size_t kernel_h, kernel_w, dilation_h, dilation_w;
  std::size_t channels;  // that are gathered of each pixel
};

// A window that lies within its image.
struct Window {
  std::size_t rows, columns, row_stride, column_stride;  // strides in values
};

// A two-dimensional depthwise convolution of one image in NHWC.
struct Depthwise {
  std::size_t height, width, channels;
  std::size_t out_width;
  std::size_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;
  std::uint8_t x_zero_point;
  const std::int8_t* weights;  // packed by `pack_depthwise`
  Requantize output;           // bias and scale in the order of `depthwise_order`
};

// One row of the table of kernels: what an instruction set brings. Strides are in elements.
struct Kernels {
  const char* name;
  std::size_t rows;     // of one block of `gemm`
  std::size_t columns;  // of one block of `gemm`, and of one panel of packed weights
  std::size_t k_step;   // K is padded with zero weights to a multiple of this
  std::size_t lanes;    // bytes of one vector; channels of one step of `depthwise`

  // Readies the calling thread for `gemm`.
  void (*begin)();
  // sums[rows][columns] = a[rows][k] * panel, for `count` <= rows rows; k a multiple of k_step.
  void (*gemm)(const std::uint8_t* a, std::size_t stride, std::size_t count,
               const std::int8_t* panel, std::size_t k, std::int32_t* sums);
  // One window as [kernel_h][kernel_w][channels]; `zero` where it lies outside the image. Reads and
  // writes up to kSlack - 1 bytes more.
  void (*gather)(const Patches& p, const std::uint8_t* image, std::ptrdiff_t top,
                 std::ptrdiff_t left, std::uint8_t zero, std::uint8_t* to);
  // y[3 i + c] = x[c][i]: three planes side by side.
  void (*interleave3)(const std::uint8_t* const (&x)[3], std::size_t size, std::uint8_t* y);
  // y[count][columns] from sums[count][kernels.columns]; `columns` <= kernels.columns.
  void (*requantize)(const std::int32_t* sums, std::size_t count, std::size_t columns,
                     const Requantize& r, std::uint8_t* y, std::size_t stride);
  void (*dequantize)(const std::int32_t* sums, std::size_t count, std::size_t columns,
                     const Dequantize& d, float* y, std::size_t stride);
  void (*dequantize_rows)(const std::int32_t* sums, std::size_t count, std::size_t columns,
                          const DequantizeRows& d, float* y, std::size_t stride);
  // y[rows][columns] = table[y], in place.
  void (*lookup)(std::uint8_t* y, std::size_t rows, std::size_t columns, std::size_t stride,
                 const std::uint8_t* table);
  // y[rows][columns] = sum of a and b; y may be a or b.
  void (*add)(const std::uint8_t* a, std::size_t a_stride, const std::uint8_t* b,
              std::size_t b_stride, std::size_t rows, std::size_t columns, const Sum& s,
              std::uint8_t* y, std::size_t stride);
  // y[rows][columns] = a[rows][columns] * gate[columns].
  void (*gate)(const std::uint8_t* a, const std::uint8_t* gate, std::size_t rows,
               std::size_t columns, const Product& p, std::uint8_t* y);
  // One output row of a depthwise convolution, the channels from `first` to `last` (a multiple of
  // `lanes`, or the last channel). scratch: depthwise_scratch bytes.
  void (*depthwise)(const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                    std::size_t first, std::size_t last, std::uint8_t* y, std::uint8_t* scratch);
  // The exact sums of the same without weights' sums taken away: sums[out_width][channels].
  void (*depthwise_sums)(const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                         std::int32_t* sums, std::uint8_t* scratch);
  // As dequantize_rows for sums[count][stride] of any width; y may be where the sums are. `d` has
  // a whole vector for the last columns.
  void (*dequantize_wide)(const std::int32_t* sums, std::size_t count, std::size_t columns,
                          const DequantizeRows& d, float* y, std::size_t stride);
  // The largest values, and the sums of what exceeds the zero point, of a window's channels.
  void (*maximum)(const std::uint8_t* x, const Window& w, std::size_t channels, std::uint8_t* y);
  void (*accumulate)(const std::uint8_t* x, const Window& w, std::size_t channels,
                     std::int32_t zero_point, std::int32_t* y);
  void (*maximum_real)(float* y, const float* x, std::size_t size);

  // float32. Within 1e-6 of the exact value, or 2e-6 relative to it, whichever is more.
  void (*unary)(Unary function, float alpha, float beta, float* y, std::size_t rows,
                std::size_t columns, std::size_t stride);
  void (*add_real)(const float* a, const float* b, float* y, std::size_t size);
  void (*mul_real)(const float* a, const float* b, float* y, std::size_t size);
  void (*quantize)(const float* x, std::size_t rows, std::size_t columns, std::size_t x_stride,
                   float scale, std::int32_t zero_point, std::uint8_t* y, std::size_t stride);
  void (*extremes)(const float* x, std::size_t size, float* low, float* high);
  void (*layer_norm)(const float* x, std::size_t size, const float* gamma, const float* beta,
                     float epsilon, float* y);
  // In place. A row of -infinity becomes NaN, or zeros.
  void (*softmax)(float* y, std::size_t size, bool empty_is_zero);
  // scratch: attention_scratch floats.
  void (*attention)(const Attention& a, float* scratch);
};

std::size_t attention_scratch(const Attention& a);

// The best kernels that this CPU runs, or those named (raises std::invalid_argument).
const Kernels& select_kernels(const char* name);
// The names that this CPU runs, best first.
std::vector<const char*> available_kernels();

// Weights w[k][n] as panels: [n / columns][k_padded / 4][columns][4].
std::size_t packed_size(const Kernels& kernels, std::size_t k, std::size_t n);
void pack(const Kernels& kernels, const std::int8_t* w, std::size_t k, std::size_t n,
          std::int8_t* packed);
// sums[n] of the columns of w[k][n]; k below 2 ** 24.
void column_sums(const std::int8_t* w, std::size_t k, std::size_t n, std::int32_t* sums);

// Depthwise weights w[kernel_h * kernel_w][channels], four rows of the kernel side by side:
// [channels / lanes][kernel_w][groups of 4 rows][4 * lanes].
std::size_t packed_depthwise_size(const Kernels& kernels, std::size_t kernel_h,
                                  std::size_t kernel_w, std::size_t channels);
void pack_depthwise(const Kernels& kernels, const std::int8_t* w, std::size_t kernel_h,
                    std::size_t kernel_w, std::size_t channels, std::int8_t* packed);
// Position p of a step of `lanes` channels holds channel depthwise_order(p): the order in which
// interleaving bytes within 128 bits leaves them.
std::size_t depthwise_order(std::size_t lanes, std::size_t position);
std::size_t depthwise_scratch(const Kernels& kernels, const Depthwise& d);

}  // namespace intact
