// What differs from channel to channel only: batch normalization, products and sums with constants,
// PRelu; and interpolation, which mixes neighbouring pixels channel by channel.

#include <algorithm>
#include <cstring>

#include "steps.hpp"

namespace intact {
namespace {

constexpr std::size_t kValuesPerJob = 16 * 1024;

// The numbers of every channel, repeated so often that short rows become longer ones.
std::vector<float> repeated(const std::vector<float>& values, std::size_t times_over) {
  std::vector<float> result;
  for (std::size_t i = 0; i < times_over; ++i) {
    result.insert(result.end(), values.begin(), values.end());
  }
  return result;
}

class ChannelwiseStep final : public Step {
 public:
  ChannelwiseStep(const Program& program, Region x, Region y, std::size_t pixels,
                  const ChannelNumbers& numbers, const Channelwise& constants,
                  std::optional<Applied> function, bool real)
      : x_(x), y_(y), c_(constants), function_(function), real_(real),
        k_(program.engine().kernels()) {
    std::size_t channels = numbers.factor.size();
    require(channels > 0 && pixels > 0, "a tensor is empty");
    require(numbers.shift.size() == channels && numbers.slope.size() == channels,
            "there are not as many numbers as channels");
    program.check(x);
    program.check(y);
    const std::size_t bytes = times(times(pixels, channels), real ? sizeof(float) : 1);
    require(x.bytes >= bytes && y.bytes >= bytes, "a tensor is too small");
    std::size_t together = 1;
    while (channels * together < 64 && pixels % (2 * together) == 0) together *= 2;
    rows_ = pixels / together;
    columns_ = channels * together;
    factor_ = repeated(numbers.factor, together);
    shift_ = repeated(numbers.shift, together);
    slope_ = repeated(numbers.slope, together);
  }

  void run(const Context& context) const override {
    const std::size_t per_job = std::max<std::size_t>(1, kValuesPerJob / columns_);
    Channelwise c = c_;
    c.factor = factor_.data();
    c.shift = shift_.data();
    c.slope = slope_.data();
    context.engine.pool().run((rows_ + per_job - 1) / per_job, [&](std::size_t job, std::size_t) {
      const std::size_t count = std::min(per_job, rows_ - job * per_job);
      const std::size_t at = job * per_job * columns_;
      if (!real_) {
        k_.channelwise(context.at<const std::uint8_t>(x_) + at, count, columns_, c,
                       context.at<std::uint8_t>(y_) + at);
        return;
      }
      float* y = context.at<float>(y_) + at;
      k_.channelwise_real(context.at<const float>(x_) + at, count, columns_, c, y);
      if (function_) k_.unary(*function_, y, count * columns_);
    });
  }

 private:
  Region x_, y_;
  Channelwise c_;
  std::optional<Applied> function_;
  bool real_;
  std::size_t rows_, columns_;
  std::vector<float> factor_, shift_, slope_;
  const Kernels& k_;
};

// The rows of the image are mixed first, then the columns of the result.
class Resample final : public Step {
 public:
  Resample(const Program& program, Region x, Region y, const std::array<std::size_t, 6>& sizes,
           Taps rows, Taps columns, std::optional<Scaled> from, std::optional<Scaled> to)
      : x_(x), y_(y), images_(sizes[0]), height_(sizes[1]), width_(sizes[2]), channels_(sizes[3]),
        out_height_(sizes[4]), out_width_(sizes[5]), rows_(std::move(rows)),
        columns_(std::move(columns)), from_(from), to_(to), k_(program.engine().kernels()) {
    program.check(x);
    program.check(y);
    line_ = times(width_, channels_);
    out_line_ = times(out_width_, channels_);
    const std::size_t in = times(times(images_, height_), line_);
    const std::size_t out = times(times(images_, out_height_), out_line_);
    require(in > 0 && out > 0, "a tensor is empty");
    require(x.bytes >= times(in, from ? 1 : sizeof(float)) &&
                y.bytes >= times(out, to ? 1 : sizeof(float)),
            "a tensor is too small");
    check(rows_, height_, out_height_);
    check(columns_, width_, out_width_);
    for (const auto& q : {from, to}) {
      require(!q || (q->zero_point >= 0 && q->zero_point <= 255), "a zero point is no uint8");
    }
  }

  std::size_t scratch() const override {
    return times(2 * line_ + out_line_, sizeof(float)) + kSlack;
  }

  void run(const Context& context) const override {
    context.engine.pool().run(images_ * out_height_, [&](std::size_t job, std::size_t thread) {
      const std::size_t image = job / out_height_, row = job % out_height_;
      auto* mixed = reinterpret_cast<float*>(context.engine.scratch(thread));
      float* read = mixed + line_;
      for (std::size_t t = 0; t < rows_.count; ++t) {
        const std::size_t line = image * height_ + rows_.index[row * rows_.count + t];
        const float* of = real_line(context, line, read);
        add(mixed, of, rows_.weight[row * rows_.count + t], t == 0, line_);
      }
      float* out = to_ ? read + line_ : context.at<float>(y_) + job * out_line_;
      for (std::size_t p = 0; p < out_width_; ++p) {
        for (std::size_t t = 0; t < columns_.count; ++t) {
          const std::size_t i = p * columns_.count + t;
          add(out + p * channels_, mixed + columns_.index[i] * channels_, columns_.weight[i], t == 0,
              channels_);
        }
      }
      if (to_) {
        k_.quantize(out, out_line_, to_->scale, to_->zero_point, false,
                    context.at<std::uint8_t>(y_) + job * out_line_);
      }
    });
  }

 private:
  static void check(const Taps& taps, std::size_t in, std::size_t out) {
    require(taps.count > 0 && taps.index.size() == times(out, taps.count) &&
                taps.weight.size() == taps.index.size(),
            "there are not as many taps as values");
    for (const std::int64_t i : taps.index) {
      require(i >= 0 && static_cast<std::size_t>(i) < in, "a tap lies outside its image");
    }
  }

  // y = x * weight, or y += x * weight.
  void add(float* y, const float* x, float weight, bool first, std::size_t n) const {
    (first ? k_.scale_real : k_.add_scaled)(x, weight, y, n);
  }

  const float* real_line(const Context& context, std::size_t line, float* to) const {
    if (!from_) return context.at<const float>(x_) + line * line_;
    k_.dequantize_bytes(context.at<const std::uint8_t>(x_) + line * line_, line_, from_->scale,
                        from_->zero_point, to);
    return to;
  }

  Region x_, y_;
  std::size_t images_, height_, width_, channels_, out_height_, out_width_, line_, out_line_;
  Taps rows_, columns_;
  std::optional<Scaled> from_, to_;
  const Kernels& k_;
};

}  // namespace

std::unique_ptr<Step> make_channelwise(const Program& program, Region x, Region y,
                                       std::size_t pixels, const ChannelNumbers& numbers,
                                       const Channelwise& constants) {
  return std::make_unique<ChannelwiseStep>(program, x, y, pixels, numbers, constants, std::nullopt,
                                           false);
}

std::unique_ptr<Step> make_real_channelwise(const Program& program, Region x, Region y,
                                            std::size_t pixels, const ChannelNumbers& numbers,
                                            std::optional<Applied> function) {
  return std::make_unique<ChannelwiseStep>(program, x, y, pixels, numbers, Channelwise{}, function,
                                           true);
}

std::unique_ptr<Step> make_resample(const Program& program, Region x, Region y,
                                    const std::array<std::size_t, 6>& sizes, Taps rows,
                                    Taps columns, std::optional<Scaled> from,
                                    std::optional<Scaled> to) {
  return std::make_unique<Resample>(program, x, y, sizes, std::move(rows), std::move(columns), from,
                                    to);
}

}  // namespace intact
