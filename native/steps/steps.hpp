#pragma once

// The steps of a program: one factory each, which checks what it is given against the program.

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../program.hpp"

namespace intact {

constexpr std::size_t kFarBytes = 1024 * 1024;  // of a tensor that a core does not hold beside its other work

// What becomes of the uint8 result before it leaves the cache.
struct Tail {
  std::vector<std::uint8_t> table;  // 256 entries, or none
  std::optional<Region> other;      // added by `sum`
  Sum sum{};
};

// Scale (float32) and zero point (int32) of each row of a matrix, or of each image.
struct RowParameters {
  Region scales, zero_points;

  void check(const Program& program, std::size_t rows) const;
  // Those of a row whose values lie between low <= 0 and high >= 0.
  void set(const Context& context, std::size_t row, float low, float high) const;
};

// The least and the greatest float of each image, and zero, as far as each thread wrote them:
// [threads][images][2].
struct Extremes {
  Region region;
  std::size_t images;

  // Checks that there is room, and that `rows` rows are those of the images.
  void check(const Program& program, std::size_t rows) const;
  void clear(const Context& context) const;
  float* of(const Context& context, std::size_t thread, std::size_t image) const {
    return context.at<float>(region) + 2 * (thread * images + image);
  }
  void parameters(const Context& context, const RowParameters& to) const;
};

// What becomes of a float32 result before it leaves the cache, in this order.
struct RealTail {
  std::vector<float> shift;  // one per column, or none
  Applied function;
  std::optional<Region> other;  // float32, added
  float low = -std::numeric_limits<float>::infinity();  // clamped to these
  float high = std::numeric_limits<float>::infinity();
  bool quantized = false;  // to uint8 by `scale` and `zero_point`
  float scale = 1;
  std::int32_t zero_point = 0;
};

// float32 [images][lines][channels] each: of each line of an image, what OfColumns is of.
struct LineColumns {
  Region sums, most, negatives;
};

struct Output {
  // A row of a wider tensor that is written to: its bytes, and where in it the columns begin. None: the
  // columns are the row.
  std::optional<std::array<std::size_t, 2>> within;
  std::vector<std::int32_t> bias;  // one per column; with `rows`, the sums of the weights
  std::vector<float> scale;        // one per column
  std::optional<RowParameters> rows;
  std::optional<RealTail> real;  // float32 instead of uint8
  std::optional<Extremes> extremes;  // of the floats
  // Of the uint8 that the floats become, instead of themselves, with the extremes of each image: sums
  // are computed twice.
  std::optional<RowParameters> found;
  std::optional<LineColumns> of_lines;  // depthwise convolutions to float32 only
  float low = 0, high = 0;       // uint8 only, as in Requantize
  std::int32_t zero_point = 0;
};

std::unique_ptr<Step> make_convolution(const Program& program, Region x, Region y,
                                       const Windows& windows, std::uint8_t x_zero_point,
                                       std::shared_ptr<const Packed> weights, Output output,
                                       Tail tail);
std::unique_ptr<Step> make_depthwise(const Program& program, Region x, Region y,
                                     const Windows& windows, std::uint8_t x_zero_point,
                                     const std::vector<std::int8_t>& weights, const Output& output,
                                     Tail tail);

// Stages that each read what the one before writes, which is never whole: a few lines at a time.
std::unique_ptr<Step> make_chain(const Program& program, std::vector<std::unique_ptr<Step>> stages);

std::unique_ptr<Step> make_real_depthwise(const Program& program, Region x, Region y,
                                          const Windows& windows,
                                          const std::vector<std::int8_t>& weights, Output output);

// float32 [images, channels, pixels] to uint8 [images, pixels, channels], and back.
std::unique_ptr<Step> make_quantize(const Program& program, Region x, Region y, std::size_t images,
                                    std::size_t channels, std::size_t pixels, float scale,
                                    std::int32_t zero_point);
std::unique_ptr<Step> make_dequantize(const Program& program, Region x, Region y,
                                      std::size_t images, std::size_t channels, std::size_t pixels,
                                      float scale, std::int32_t zero_point);
std::unique_ptr<Step> make_add(const Program& program, Region a, Region b, Region y,
                               std::size_t size, const Sum& sum);
std::unique_ptr<Step> make_gate(const Program& program, Region a, Region gate, Region y,
                                std::size_t images, std::size_t pixels, std::size_t channels,
                                const Product& product);
// y[rows][y_offset : y_offset + columns] of width y_stride = table[x[rows][columns]].
std::unique_ptr<Step> make_copy(const Program& program, Region x, Region y, std::size_t rows,
                                std::size_t x_stride, std::size_t x_offset, std::size_t columns,
                                std::size_t y_stride, std::size_t y_offset,
                                std::vector<std::uint8_t> table);

std::unique_ptr<Step> make_max_pool(const Program& program, Region x, Region y,
                                    const Windows& windows, std::vector<std::uint8_t> table);
// Means of windows; what each divides by is in `counts` [out_height * out_width].
std::unique_ptr<Step> make_average_pool(const Program& program, Region x, Region y,
                                        const Windows& windows, std::int32_t x_zero_point,
                                        float x_scale, std::vector<float> counts,
                                        std::optional<float> y_scale, std::int32_t y_zero_point,
                                        float low, float high);

// float32, NHWC: the largest value, or the sum divided by `counts` [out_height * out_width].
std::unique_ptr<Step> make_real_pool(const Program& program, Region x, Region y,
                                     const Windows& windows, std::vector<float> counts);

// float32: y[rows][n] = x[rows][k] * w[k][n] + bias[n].
std::unique_ptr<Step> make_float_product(const Program& program, Region x, Region y,
                                         std::size_t rows,
                                         std::shared_ptr<const PackedReals> weights,
                                         std::vector<float> bias);
Unary unary_of(const std::string& name);
std::unique_ptr<Step> make_function(const Program& program, Region x, Region y, std::size_t size,
                                    const Applied& function);
// Each row (or image) of x[rows][channels][pixels] by itself, as ONNX's DynamicQuantizeLinear, to
// [rows][pixels][channels].
std::unique_ptr<Step> make_quantize_rows(const Program& program, Region x, Region y,
                                         const RowParameters& parameters,
                                         std::optional<Extremes> extremes, std::size_t rows,
                                         std::size_t channels, std::size_t pixels);
// The same of x[images][pixels][channels] * gate[images][channels], where the lines of x are known.
struct GatedImages {
  Region x, gate, most, negatives;  // the last two as in LineColumns
  std::size_t images, lines, pixels, channels;
};
std::unique_ptr<Step> make_quantize_gated(const Program& program, const GatedImages& given, Region y,
                                          const RowParameters& parameters);

// y = a + b, or with "Sub", "Mul" or "Div" for "Add"; each is [outer][rows][columns], with 0 for a
// stride that repeats.
struct Operand {
  Region region;
  std::size_t outer_stride, row_stride, column_stride;  // columns: 0 or 1
};
std::unique_ptr<Step> make_binary(const Program& program, const Operand& a, const Operand& b,
                                  Region y, const std::string& operation, std::size_t outer,
                                  std::size_t rows, std::size_t columns,
                                  std::optional<Extremes> extremes);
// The uint8 of a float32 result, besides itself: by `scale` and `zero_point`, or by those of each row.
struct Quantized {
  Region y;
  float scale = 1;
  std::int32_t zero_point = 0;
  std::optional<RowParameters> rows;
};

// y, and where wanted its uint8, from x[rows][size].
std::unique_ptr<Step> make_layer_norm(const Program& program, Region x, Region y,
                                      std::optional<Quantized> quantized, std::size_t rows,
                                      std::vector<float> gamma, std::vector<float> beta,
                                      float epsilon);
std::unique_ptr<Step> make_softmax(const Program& program, Region x, Region y, std::size_t rows,
                                   std::size_t size, bool logarithm);
// A tensor as it lies in memory: `offset` and `strides` in values.
struct View {
  Region region;
  std::size_t offset;
  std::vector<std::size_t> strides;
};
// Checks that every index below `shape` lies in the view, whose values have `value_bytes`.
void check_view(const Program& program, const View& view, const std::vector<std::size_t>& shape,
                std::size_t value_bytes = sizeof(float));
// q, k, v, y and mask: strides of batch, head and position. masks: after so many of the batch the
// mask begins again.
std::unique_ptr<Step> make_attention(const Program& program, const View& q, const View& k,
                                     const View& v, const std::optional<View>& mask,
                                     const View& y, std::size_t batch, std::size_t heads,
                                     std::size_t queries, std::size_t keys, std::size_t width,
                                     std::size_t v_width, float scale, bool empty_is_zero,
                                     std::size_t masks, std::optional<Quantized> quantized);
// y = operator(x...) of float32 and int64, value by value; `name` ends in the operands' type, as in
// "Add:int64".
std::unique_ptr<Step> make_elementwise(const Program& program, const std::string& name,
                                       std::vector<View> x, const View& y,
                                       std::vector<std::size_t> shape);
// Of a table [outer][rows][size], and of `count` indices.
struct GatherSizes {
  std::size_t outer, rows, count, size;
};
// y[outer][i] = (table[outer][indices[i]] - zero_point) * scale in float32. type: of the table,
// "float32", "int8", "uint8", or "int64", which stays as it is; a float32 table has no zero point.
// indices: int64; one beyond the table raises std::out_of_range, which names `label`, when the program runs.
std::unique_ptr<Step> make_gather(const Program& program, Region table, Region indices, Region y,
                                  const std::optional<Region>& scales, const GatherSizes& sizes,
                                  const std::string& type, float scale, std::int32_t zero_point,
                                  std::string label);
// y[outer][i][inner] = sum of x[outer][0 ... i][inner], of int64 if `whole`, else of float32.
std::unique_ptr<Step> make_running_sum(const Program& program, Region x, Region y,
                                       std::size_t outer, std::size_t count, std::size_t inner,
                                       bool whole);

// A place in a tensor, `offset` in values.
struct Placed {
  Region region;
  std::size_t offset;
};
// For each index i below `count`: y's i * y_stride takes what lies at x's i * x_stride, or at
// offsets[i] where there are offsets, of which -1 means the fill.
struct MoveAxis {
  std::size_t count, x_stride, y_stride;
  std::vector<std::int64_t> offsets;
};
// Values of 1, 4 or 8 bytes moved. table: looked up afterwards, the fill too; of 256 entries, or none.
std::unique_ptr<Step> make_move(const Program& program, const Placed& x, const Placed& y,
                                std::vector<MoveAxis> axes, std::size_t value_bytes,
                                std::uint64_t fill, std::vector<std::uint8_t> table);
// Of every channel; see Channelwise.
struct ChannelNumbers {
  std::vector<float> factor, shift, slope;
};
// uint8 [pixels, channels] to the same; float32 likewise, with a function behind it.
std::unique_ptr<Step> make_channelwise(const Program& program, Region x, Region y,
                                       std::size_t pixels, const ChannelNumbers& numbers,
                                       const Channelwise& constants);
std::unique_ptr<Step> make_real_channelwise(const Program& program, Region x, Region y,
                                            std::size_t pixels, const ChannelNumbers& numbers,
                                            std::optional<Applied> function);
// What each value along an axis is mixed of: `count` indices and weights each.
struct Taps {
  std::size_t count;
  std::vector<std::int64_t> index;
  std::vector<float> weight;
};
struct Scaled {
  float scale;
  std::int32_t zero_point;
};
// NHWC images mixed along their height, then along their width; float32, or uint8 by `from` and
// `to`. sizes: images, height, width, channels, and the new height and width.
std::unique_ptr<Step> make_resample(const Program& program, Region x, Region y,
                                    const std::array<std::size_t, 6>& sizes, Taps rows,
                                    Taps columns, std::optional<Scaled> from,
                                    std::optional<Scaled> to);
// float32 functions that are computed one value at a time.
std::unique_ptr<Step> make_map(const Program& program, Region x, Region y, std::size_t size,
                               const std::string& function, float alpha);
// float32 = table[uint8].
std::unique_ptr<Step> make_lookup_floats(const Program& program, Region x, Region y,
                                         std::size_t size, std::vector<float> table);

}  // namespace intact
