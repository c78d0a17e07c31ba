#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace intact {

// Bytes beyond the end of a tensor that kernels may read (never write): one vector.
constexpr std::size_t kSlack = 64;

// Work for the vector units while a matrix unit multiplies: `parts` calls of call(state, part).
struct Beside {
  void (*call)(const void* state, std::size_t part) = nullptr;
  const void* state = nullptr;
  std::size_t parts = 0;

  void run(std::size_t from, std::size_t to) const {
    for (std::size_t part = from; part < to; ++part) call(state, part);
  }
};

// sums[count][columns] = a[count][taps * k] * panel. A row of `a` is `taps` pieces of k values, piece t
// at a + row * stride + offsets[t], or, with `starts`, at a + starts[row] + offsets[t]; k is a multiple
// of k_step. All parts of `beside` are run meanwhile or before. `next`: weights that will be read soon,
// for prefetching.
struct Multiplication {
  const std::uint8_t* a;
  std::size_t stride;
  const std::uint32_t* starts;
  std::size_t count;
  const std::size_t* offsets;
  std::size_t taps, k;
  const std::int8_t* panel;
  std::size_t columns;  // of the panel
  std::int32_t* sums;
  Beside beside;
  const std::int8_t* next = nullptr;
  std::size_t next_bytes = 0;
};

// From exact sums to integers: clamp(rne(float32(sum + bias) * scale), low, high) + zero_point, where
// low and high are whole and relative to the zero point. bias and scale: one per column.
struct Requantize {
  const std::int32_t* bias;
  const float* scale;
  float low, high;
  std::int32_t zero_point;
  bool small;                  // whether every scale is below 1
  const std::uint8_t* table;  // 256 entries, in which the result is looked up; or null
};

// Columns of one panel of packed float32 weights.
constexpr std::size_t kRealColumns = 64;

// What one time step of recurrent cells reads and writes. Strides are in floats, from row to row.
struct Cells {
  const float* from_x;  // the input's share: gate g of unit j at g * x_gate + j
  std::size_t x_stride, x_gate;
  const float* from_h;  // the state's share
  std::size_t h_stride, h_gate;
  float *h, *c;  // states in place: [rows][stride]. A GRU that needs two halves keeps a gate in c
  std::size_t stride;
  float* y;  // the new h once more; after the first half of a GRU, reset gate times h
  std::size_t y_stride;
};

// Functions of one float32; alpha and beta are those of ONNX (for kClip, the ends).
enum class Unary {
  kNone, kClip, kGelu, kGeluTanh, kHardSigmoid, kHardSwish, kLeakyRelu, kRelu, kSigmoid, kSwish, kTanh
};

struct Applied {
  Unary function = Unary::kNone;
  float alpha = 0, beta = 0;
};

// How a function moves, as its argument grows: up all the way, or down until `turn` and up from there.
enum class Course { kRising, kTurning, kOther };
struct Movement {
  Course course;
  float turn = 0;
};
Movement movement_of(const Applied& function);
// Whether products end in registers with this function: others take longer than it takes to write sums and
// read them again. added: whether something is added after it.
bool ends_in_registers(const Applied& function, bool added);

// One head of attention: softmax(q k^T * scale + mask) v. Strides are in floats, from row to row;
// within a row values are adjacent.
struct Attention {
  const float *q, *k, *v, *mask;  // mask [queries][keys], or null
  std::size_t q_stride, k_stride, v_stride, mask_stride;
  std::size_t queries, keys, width, v_width;
  float scale;
  bool empty_is_zero;  // where the mask leaves a query no key: zeros instead of NaN
  bool far;            // whether q, k and v are likely to lie beyond a core's caches
  float* y;
  std::uint8_t* bytes;  // of y, by scale and zero point, in rows of the same stride; or null
  float q_scale;
  std::int32_t q_zero_point;
  std::size_t y_stride;
};

// clamp(rne((a.scale * (a - a.zero_point) + b.scale * (b - b.zero_point)) / scale)) + zero_point.
struct Sum {
  float a_scale, b_scale, scale;
  std::int32_t a_zero_point, b_zero_point;
  float low, high;
  std::int32_t zero_point;
};

// What a product becomes as uint8: y[count][width] in rows of `stride`. With `other`, which has such
// rows too, `sum` is added, and there is no table; sum.a_zero_point is requantize.zero_point.
struct Bytes {
  Requantize requantize;
  Sum sum;
  const std::uint8_t* other;
  std::uint8_t* y;
  std::size_t width, stride;
};

// From exact sums to floats, and what becomes of those before they leave the registers, in this order:
// float32(sum + bias) * scale, or for rows that were quantized one by one
// float32(sum - zero_points[row] * bias) * (scales[row] * scale); + shift; function; + other;
// clamped to low and high; written to y, or as uint8 to q.
// Of the values of each column: their sum, the greatest, and the greatest of what is their negative.
struct OfColumns {
  float *sum, *most, *negative;

  void skip(std::size_t columns) {
    sum += columns;
    most += columns;
    negative += columns;
  }
};

struct Finish {
  const std::int32_t* bias;         // one per column: where rows have parameters, sums of weights
  const float* scale;               // one per column
  const float* shift;               // one per column, or null
  const float* scales;              // one per row (or for all of `one_image`), or null
  const std::int32_t* zero_points;  // as many
  bool one_image;
  Applied function;
  const float* other;               // float32 in rows of `stride`, or null
  float low, high;
  float* y;                         // in rows of `stride`, or null if only extremes are wanted
  std::uint8_t* q;                  // in rows of `stride`, or null
  float q_scale;
  std::int32_t q_zero_point;
  std::size_t stride;
  float* extremes;  // [2], widened to hold all of y; or null
  bool bounded = false;  // whether q_scale and q_zero_point are those of these values' own extremes
  bool far = false;      // whether `other` is likely to lie beyond a core's caches
  OfColumns of_columns{};  // of what is written to y, of `one_image`, or nulls
};

// clamp(rne(float32((a - a_zero_point) * (b - b_zero_point)) * scale)) + zero_point.
struct Product {
  std::int32_t a_zero_point, b_zero_point;
  float scale;
  float low, high;
  std::int32_t zero_point;
};

// x = x_scale * (x - x_zero_point); x = x * factor + shift; x = x < 0 ? x * slope : x;
// clamp(rne(x / scale)) + zero_point. factor, shift, slope: one per column.
struct Channelwise {
  const float *factor, *shift, *slope;
  float x_scale, scale, low, high;
  std::int32_t x_zero_point, zero_point;
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
  Requantize output;           // bias and scale in the order of `depthwise_order`, those of floats too
  const float* shift;          // of floats, in that order, or null
};

// Tiles of 4x4 outputs, and at the edges of 4 lines of 2, 2 lines of 4, and 2 of 2.
enum class TileKind { kNarrow, kWhole, kFlat, kSmall };

// Some channels of packed weights [9][channels / 4][panel_columns][4], and `columns` columns of them.
struct TileWeights {
  const std::int8_t* first;
  std::size_t tap, panel_columns;  // from tap to tap in bytes; columns of the panel
  std::size_t channels, columns;
};

// products[tile][36][columns] of inputs and weights, of tiles of each kind in turn; added to what they are
// where `continued`. point: from one of the 36 to the next of the inputs, in values. next: what will be read
// soon, for prefetching.
struct TileProduct {
  const std::int16_t *input, *weights;
  std::size_t point, channels, columns;
  std::size_t narrow, whole, flat, small;  // tiles
  bool continued;
  std::int32_t* products;
  TileWeights next{};
};

// 3x3 convolutions with a stride of one by tiles of 4x4 outputs (Winograd's F(4x4, 3x3), exactly: see
// kernels/winograd.hpp). Inputs, weights and products of 36 points lie as these functions agree on.
struct Winograd {
  std::size_t channels;  // what they are a multiple of
  std::size_t columns;   // whose products are computed together, at most
  double cost_of_bytes;  // of four products of bytes, in such as of two pairs
  std::size_t (*weights_bytes)(std::size_t channels, std::size_t columns);
  void (*weights)(const TileWeights& w, std::int16_t* to);
  void (*prefetch)(const TileWeights& w);
  // Of 6x6 pixels (4 along an axis with 2 outputs) from x on, of which lines and pixels are so many bytes
  // apart. to: of the tile; [channels / Winograd::channels][36][point], of which a tile is that many channels.
  void (*input)(const std::uint8_t* x, std::size_t line, std::size_t pixel, std::size_t channels, TileKind kind,
                std::size_t point, std::int16_t* to);
  void (*product)(const TileProduct& p);
  // sums[4][4][columns] of one tile, exactly; lines are so many values apart.
  void (*output)(const std::int32_t* products, std::size_t columns, TileKind kind, std::int32_t* sums,
                 std::size_t line);
};
constexpr std::size_t kTileOutputs = 4, kTileInputs = 6, kTilePoints = kTileInputs * kTileInputs;
// What the absolute sum of a convolution must be below.
constexpr std::int64_t kMostWinogradSum = std::int64_t{1} << 25;

// One row of the table of kernels: what an instruction set brings. Strides are in elements.
struct Kernels {
  const char* name;
  std::size_t rows;     // of one block of `gemm`, at most
  std::size_t columns;  // of one panel of packed weights, at most
  std::size_t column_step;  // a panel has a multiple of this
  std::size_t k_step;   // K is padded with zero weights to a multiple of this
  std::size_t lanes;    // bytes of one vector; channels of one step of `depthwise`
  std::size_t half_lanes;  // of a last step of no more channels than that

  // Readies the calling thread for `gemm`.
  void (*begin)();
  void (*gemm)(const Multiplication& m);
  // The rows that it multiplies at a time by a panel of `columns`.
  std::size_t (*block_rows)(std::size_t columns);
  // Products of any number of rows that are finished in registers, m.beside and m.sums aside; or null
  // where sums are better finished beside the next product, which then knows no `starts`.
  void (*product)(const Multiplication& m, const Bytes& b);
  // The same as `f` says, for rows without parameters of their own and a function that
  // `ends_in_registers`: y or q is that of the first row and column, and `width` columns are written.
  void (*product_real)(const Multiplication& m, std::size_t width, const Finish& f);
  // The same, of which nothing is written: see `bounds`.
  void (*product_bounds)(const Multiplication& m, const std::int32_t* turns, std::int32_t* y);
  // The same of functions that are GELU alone, with nothing else after or beside them, in panels as wide as
  // can be, or null.
  void (*product_gelu)(const Multiplication& m, const Finish& f);
  // `count` windows as [kernel_h][kernel_w][channels] each, `stride` apart; the first at (top, left),
  // each `step` columns further; `zero` where one lies outside the image. Reads and writes up to
  // kSlack - 1 bytes more.
  void (*gather)(const Patches& p, const std::uint8_t* image, std::ptrdiff_t top,
                 std::ptrdiff_t left, std::size_t step, std::size_t count, std::uint8_t zero,
                 std::uint8_t* to, std::size_t stride);
  // y[3 i + c] = x[c][i]: three planes side by side.
  void (*interleave3)(const std::uint8_t* const (&x)[3], std::size_t size, std::uint8_t* y);
  // y[count][columns] from sums[count][panel]; `columns` <= panel, which is a panel's columns.
  void (*requantize)(const std::int32_t* sums, std::size_t panel, std::size_t count, std::size_t columns,
                     const Requantize& r, std::uint8_t* y, std::size_t stride);
  // The same without a table, and `other` added, in rows of `stride` too. s.a_zero_point is r.zero_point.
  void (*requantize_add)(const std::int32_t* sums, std::size_t panel, std::size_t count,
                         std::size_t columns, const Requantize& r, const Sum& s, const std::uint8_t* other,
                         std::uint8_t* y, std::size_t stride);
  // The least and the greatest sum of each column: y[2][panel], count > 0. With turns[panel] also the
  // greatest sum not above that, and the least above it: y[4][panel]; where there is none, one of the
  // others.
  void (*bounds)(const std::int32_t* sums, std::size_t panel, std::size_t count,
                 const std::int32_t* turns, std::int32_t* y);
  // Of each column the greatest sum that becomes, before f.function, a float not above `turn`; whole
  // vectors of columns are read and written. f.one_image, or no f.scales.
  void (*turns)(const Finish& f, std::size_t columns, float turn, std::int32_t* y);
  // As `f` says, from sums[count][panel].
  void (*finish)(const std::int32_t* sums, std::size_t panel, std::size_t count, std::size_t columns,
                 const Finish& f);
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
  // Rows of the output that a depthwise convolution computes at a time, at most.
  std::size_t (*depthwise_lines)(const Depthwise& d);
  // `lines` output rows of a depthwise convolution. scratch: depthwise_scratch bytes.
  void (*depthwise)(const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top, std::size_t lines,
                    std::uint8_t* y, std::uint8_t* scratch);
  // Output rows of an image with scale and zero point of its own, f.scales[0] and f.zero_points[0];
  // `f` is for the pixels of the rows, with whole vectors of what is given per column.
  void (*depthwise_real)(const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                         std::size_t lines, const Finish& f, std::uint8_t* scratch);
  // The same without writing: as `bounds` of the rows' sums, whose columns are the channels in whole
  // steps of `lanes`. turns: in the order of `depthwise_order`, or null.
  void (*depthwise_bounds)(const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                           std::size_t lines, const std::int32_t* turns, std::int32_t* y,
                           std::uint8_t* scratch);
  // The largest values, and the sums of what exceeds the zero point, of a window's channels.
  void (*maximum)(const std::uint8_t* x, const Window& w, std::size_t channels, std::uint8_t* y);
  void (*accumulate)(const std::uint8_t* x, const Window& w, std::size_t channels,
                     std::int32_t zero_point, std::int32_t* y);
  // float32: the largest values, or the sums, of a window's channels.
  void (*pool_real)(const float* x, const Window& w, std::size_t channels, bool largest, float* y);

  const Winograd* winograd;  // or null

  // float32. Within 1e-6 of the exact value, or 2e-6 relative to it, whichever is more.
  void (*unary)(const Applied& function, float* y, std::size_t size);
  void (*add_real)(const float* a, const float* b, float* y, std::size_t size);
  void (*mul_real)(const float* a, const float* b, float* y, std::size_t size);
  void (*sub_real)(const float* a, const float* b, float* y, std::size_t size);
  void (*div_real)(const float* a, const float* b, float* y, std::size_t size);
  // y = x * factor; y += x * factor, rounded one by one.
  void (*scale_real)(const float* x, float factor, float* y, std::size_t size);
  void (*add_scaled)(const float* x, float factor, float* y, std::size_t size);
  // y[rows][columns]; the second takes float32, of which it has only factor, shift and slope.
  void (*channelwise)(const std::uint8_t* x, std::size_t rows, std::size_t columns,
                      const Channelwise& c, std::uint8_t* y);
  void (*channelwise_real)(const float* x, std::size_t rows, std::size_t columns,
                           const Channelwise& c, float* y);
  // y = (x - zero_point) * scale.
  void (*dequantize_bytes)(const std::uint8_t* x, std::size_t size, float scale,
                           std::int32_t zero_point, float* y);
  // bounded: whether scale and zero_point are those of a range that holds all of x.
  void (*quantize)(const float* x, std::size_t size, float scale, std::int32_t zero_point, bool bounded,
                   std::uint8_t* y);
  // The same, bounded, of x[i] * factors[i % period]; the factors go on so for kSlack values beyond the period.
  void (*quantize_scaled)(const float* x, std::size_t size, const float* factors, std::size_t period,
                          float scale, std::int32_t zero_point, std::uint8_t* y);
  // Widens *least and *most, which hold zero.
  void (*extremes)(const float* x, std::size_t size, float* least, float* most);
  void (*layer_norm)(const float* x, std::size_t size, const float* gamma, const float* beta,
                     float epsilon, float* y);
  // In place. A row of -infinity becomes NaN, or zeros.
  void (*softmax)(float* y, std::size_t size, bool empty_is_zero);
  // y[count][kRealColumns] = a[count][k] * panel[k][kRealColumns]; each row by itself.
  void (*real_product)(const float* a, std::size_t stride, std::size_t count, const float* panel,
                       std::size_t k, float* y, std::size_t y_stride);
  // `columns` units of `count` rows, exact but for sigmoid and tanh; gru_gates and gru_state are
  // the halves of a GRU whose reset gate multiplies the state instead of the product.
  void (*lstm_cells)(const Cells& s, std::size_t count, std::size_t columns);
  void (*gru_cells)(const Cells& s, std::size_t count, std::size_t columns);
  void (*gru_gates)(const Cells& s, std::size_t count, std::size_t columns);
  void (*gru_state)(const Cells& s, std::size_t count, std::size_t columns);
  // scratch: attention_scratch floats, whose pointers do not matter to it.
  std::size_t (*attention_scratch)(const Attention& a);
  void (*attention)(const Attention& a, float* scratch);
};

// The best kernels that this CPU runs, or those named (raises std::invalid_argument).
const Kernels& select_kernels(const char* name);
// The names that this CPU runs, best first.
std::vector<const char*> available_kernels();

// Columns [first, first + columns) of packed weights, some of them padding.
struct Panel {
  std::size_t first, columns;
};
// The panels of n columns: all but the last are as wide as can be, which is fastest.
std::size_t panels_of(const Kernels& kernels, std::size_t n);
Panel panel_of(const Kernels& kernels, std::size_t n, std::size_t panel);
// Weights w[k][n] as panels: [panel][k_padded / 4][columns][4].
std::size_t packed_size(const Kernels& kernels, std::size_t k, std::size_t n);
void pack(const Kernels& kernels, const std::int8_t* w, std::size_t k, std::size_t n,
          std::int8_t* packed);
// to[taps][channels][n] from w[n][channels][taps].
void reorder(const std::int8_t* w, std::size_t n, std::size_t channels, std::size_t taps,
             std::int8_t* to);
// sums[n] of the columns of w[k][n]; k below 2 ** 24.
void column_sums(const std::int8_t* w, std::size_t k, std::size_t n, std::int32_t* sums);

// Channels of the step of `depthwise` that begins at channel `first`.
std::size_t depthwise_lanes(const Kernels& kernels, std::size_t channels, std::size_t first);
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
// to[p] = from[channel at position p], padded with zeros.
template <class T>
std::vector<T> in_depthwise_order(const Kernels& kernels, const std::vector<T>& from) {
  const std::size_t lanes = kernels.lanes, channels = from.size();
  std::vector<T> to((channels + lanes - 1) / lanes * lanes);
  for (std::size_t p = 0; p < to.size(); ++p) {
    const std::size_t first = p / lanes * lanes, step = depthwise_lanes(kernels, channels, first);
    if (p - first >= step) continue;
    const std::size_t channel = first + depthwise_order(step, p - first);
    if (channel < channels) to[p] = from[channel];
  }
  return to;
}

}  // namespace intact
