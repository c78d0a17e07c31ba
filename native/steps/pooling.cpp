// Pools over NHWC: the channels of a pixel are taken together.

#include <algorithm>
#include <cstring>
#include <limits>

#include "steps.hpp"

namespace intact {
namespace {

// The part of a window that lies within the image, along one axis.
struct Reach {
  Reach(std::size_t out, std::size_t stride, std::size_t pad, std::size_t kernel,
        std::size_t dilation, std::size_t size) {
    const auto start = static_cast<std::ptrdiff_t>(out * stride) - static_cast<std::ptrdiff_t>(pad);
    for (std::size_t i = 0; i < kernel; ++i) {
      const std::ptrdiff_t at = start + static_cast<std::ptrdiff_t>(i * dilation);
      if (at < 0) continue;
      if (at >= static_cast<std::ptrdiff_t>(size)) break;
      if (count++ == 0) first = static_cast<std::size_t>(at);
    }
  }
  std::size_t first = 0, count = 0;
};

class MaxPool final : public Step {
 public:
  MaxPool(const Program& program, Region x, Region y, const Windows& w,
          std::vector<std::uint8_t> table)
      : x_(x), y_(y), w_(w), table_(std::move(table)), k_(program.engine().kernels()) {
    w_.check();
    program.check(x);
    program.check(y);
    require(x.bytes >= times(w_.in_pixels(), w_.channels) &&
                y.bytes >= times(w_.out_pixels(), w_.channels),
            "a pool's input or output is too small");
    require(table_.empty() || table_.size() == 256, "a table has not 256 entries");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const std::uint8_t>(x_);
    auto* y = context.at<std::uint8_t>(y_);
    const std::size_t channels = w_.channels;
    context.engine.pool().run(w_.images * w_.out_height, [&](std::size_t job, std::size_t) {
      const std::uint8_t* image = x + job / w_.out_height * w_.height * w_.width * channels;
      const Reach rows(job % w_.out_height, w_.stride_h, w_.pad_top, w_.kernel_h, w_.dilation_h,
                       w_.height);
      std::uint8_t* line = y + job * w_.out_width * channels;
      for (std::size_t o = 0; o < w_.out_width; ++o) {
        const Reach columns(o, w_.stride_w, w_.pad_left, w_.kernel_w, w_.dilation_w, w_.width);
        std::uint8_t* to = line + o * channels;
        const Window window{rows.count, columns.count, w_.dilation_h * w_.width * channels,
                            w_.dilation_w * channels};
        k_.maximum(image + (rows.first * w_.width + columns.first) * channels, window, channels, to);
      }
      const std::size_t size = w_.out_width * channels;
      if (!table_.empty()) k_.lookup(line, 1, size, size, table_.data());
    });
  }

 private:
  Region x_, y_;
  Windows w_;
  std::vector<std::uint8_t> table_;
  const Kernels& k_;
};

class AveragePool final : public Step {
 public:
  AveragePool(const Program& program, Region x, Region y, const Windows& w,
              std::int32_t x_zero_point, float x_scale, std::vector<float> counts,
              std::optional<float> y_scale, std::int32_t y_zero_point, float low, float high)
      : x_(x), y_(y), w_(w), x_zero_point_(x_zero_point), y_zero_point_(y_zero_point),
        low_(low), high_(high), real_(!y_scale), k_(program.engine().kernels()) {
    w_.check();
    program.check(x);
    program.check(y);
    const std::size_t size = times(w_.out_pixels(), w_.channels);
    require(x.bytes >= times(w_.in_pixels(), w_.channels) &&
                y.bytes >= times(size, real_ ? sizeof(float) : 1),
            "a pool's input or output is too small");
    require(counts.size() == w_.out_height * w_.out_width, "a pool's counts do not fit its output");
    require(times(w_.kernel_h, w_.kernel_w) < (std::size_t{1} << 23), "a pool's window is too large");
    for (const float count : counts) {
      const float mean = x_scale / count;
      factors_.push_back(y_scale ? mean / *y_scale : mean);
    }
    // The lines of a window are shared out where there are fewer windows than threads: those of few images
    // that are pooled whole.
    const std::size_t threads = program.engine().pool().threads();
    if (w_.out_pixels() < threads) parts_ = std::min(threads, w_.kernel_h);
  }

  std::size_t scratch() const override { return parts_ * w_.channels * sizeof(std::int32_t); }

  void run(const Context& context) const override {
    Pool& pool = context.engine.pool();
    if (parts_ == 1) {
      return pool.run(w_.images * w_.out_height, [&](std::size_t line, std::size_t thread) {
        auto* sums = reinterpret_cast<std::int32_t*>(context.engine.scratch(thread));
        for (std::size_t o = 0; o < w_.out_width; ++o) {
          accumulate(context, line, o, 0, sums);
          finish(context, line, o, sums);
        }
      });
    }
    auto* sums = reinterpret_cast<std::int32_t*>(context.engine.scratch(0));
    for (std::size_t window = 0; window < w_.out_pixels(); ++window) {
      const std::size_t line = window / w_.out_width, o = window % w_.out_width;
      pool.run(parts_, [&](std::size_t part, std::size_t) {
        accumulate(context, line, o, part, sums + part * w_.channels);
      });
      for (std::size_t part = 1; part < parts_; ++part) {
        const std::int32_t* more = sums + part * w_.channels;
        for (std::size_t c = 0; c < w_.channels; ++c) sums[c] += more[c];
      }
      finish(context, line, o, sums);
    }
  }

 private:
  // The sums of a part of a window's lines, of what exceeds the zero point.
  void accumulate(const Context& context, std::size_t line, std::size_t o, std::size_t part,
                  std::int32_t* sums) const {
    const std::size_t channels = w_.channels;
    const auto* image =
        context.at<const std::uint8_t>(x_) + line / w_.out_height * w_.height * w_.width * channels;
    const Reach rows(line % w_.out_height, w_.stride_h, w_.pad_top, w_.kernel_h, w_.dilation_h,
                     w_.height);
    const Reach columns(o, w_.stride_w, w_.pad_left, w_.kernel_w, w_.dilation_w, w_.width);
    const std::size_t first = part * rows.count / parts_, end = (part + 1) * rows.count / parts_;
    const Window window{end - first, columns.count, w_.dilation_h * w_.width * channels,
                        w_.dilation_w * channels};
    const std::size_t top = rows.first + first * w_.dilation_h;
    k_.accumulate(image + (top * w_.width + columns.first) * channels, window, channels, x_zero_point_, sums);
  }

  void finish(const Context& context, std::size_t line, std::size_t o, const std::int32_t* sums) const {
    const float factor = factors_[line % w_.out_height * w_.out_width + o];
    const std::size_t at = (line * w_.out_width + o) * w_.channels;
    if (!real_) return finish(sums, w_.channels, factor, context.at<std::uint8_t>(y_) + at);
    float* y = context.at<float>(y_) + at;
    for (std::size_t c = 0; c < w_.channels; ++c) y[c] = static_cast<float>(sums[c]) * factor;
  }

  void finish(const std::int32_t* sums, std::size_t n, float factor, std::uint8_t* y) const {
    constexpr float kRound = 12582912.0f;  // see Quantize
    for (std::size_t c = 0; c < n; ++c) {
      float steps = static_cast<float>(sums[c]) * factor;
      steps = steps > low_ ? steps : low_;
      steps = steps < high_ ? steps : high_;
      const float whole = (steps + kRound) - kRound;
      y[c] = static_cast<std::uint8_t>(static_cast<std::int32_t>(whole) + y_zero_point_);
    }
  }

  Region x_, y_;
  Windows w_;
  std::int32_t x_zero_point_, y_zero_point_;
  float low_, high_;
  bool real_;
  std::vector<float> factors_;
  std::size_t parts_ = 1;  // of a window's lines
  const Kernels& k_;
};

class RealPool final : public Step {
 public:
  // counts: none for the largest value.
  RealPool(const Program& program, Region x, Region y, const Windows& w, std::vector<float> counts)
      : x_(x), y_(y), w_(w), counts_(std::move(counts)), k_(program.engine().kernels()) {
    w_.check();
    program.check(x);
    program.check(y);
    require(x.bytes >= times(times(w_.in_pixels(), w_.channels), sizeof(float)) &&
                y.bytes >= times(times(w_.out_pixels(), w_.channels), sizeof(float)),
            "a pool's input or output is too small");
    require(counts_.empty() || counts_.size() == w_.out_height * w_.out_width,
            "a pool's counts do not fit its output");
    const std::size_t lines = w_.images * w_.out_height;
    parts_ = lines >= 4 ? 1 : std::clamp<std::size_t>(w_.channels / 64, 1, 8);
  }

  void run(const Context& context) const override {
    const std::size_t channels = w_.channels;
    context.engine.pool().run(w_.images * w_.out_height * parts_, [&](std::size_t job, std::size_t) {
      const std::size_t line = job / parts_, part = job % parts_;
      const std::size_t begin = part * channels / parts_;
      const std::size_t n = (part + 1) * channels / parts_ - begin;
      const std::size_t at = line / w_.out_height * w_.height * w_.width * channels + begin;
      const float* image = context.at<const float>(x_) + at;
      float* y = context.at<float>(y_) + line * w_.out_width * channels + begin;
      const Reach rows(line % w_.out_height, w_.stride_h, w_.pad_top, w_.kernel_h, w_.dilation_h,
                       w_.height);
      for (std::size_t o = 0; o < w_.out_width; ++o, y += channels) {
        const Reach columns(o, w_.stride_w, w_.pad_left, w_.kernel_w, w_.dilation_w, w_.width);
        const Window window{rows.count, columns.count, w_.dilation_h * w_.width * channels,
                            w_.dilation_w * channels};
        const float* from = image + (rows.first * w_.width + columns.first) * channels;
        k_.pool_real(from, window, n, counts_.empty(), y);
        if (counts_.empty()) continue;
        const float count = counts_[line % w_.out_height * w_.out_width + o];
        for (std::size_t c = 0; c < n; ++c) y[c] /= count;
      }
    });
  }

 private:
  Region x_, y_;
  Windows w_;
  std::vector<float> counts_;
  std::size_t parts_;
  const Kernels& k_;
};

}  // namespace

std::unique_ptr<Step> make_max_pool(const Program& program, Region x, Region y,
                                    const Windows& windows, std::vector<std::uint8_t> table) {
  return std::make_unique<MaxPool>(program, x, y, windows, std::move(table));
}

std::unique_ptr<Step> make_average_pool(const Program& program, Region x, Region y,
                                        const Windows& windows, std::int32_t x_zero_point,
                                        float x_scale, std::vector<float> counts,
                                        std::optional<float> y_scale, std::int32_t y_zero_point,
                                        float low, float high) {
  return std::make_unique<AveragePool>(program, x, y, windows, x_zero_point, x_scale,
                                       std::move(counts), y_scale, y_zero_point, low, high);
}

std::unique_ptr<Step> make_real_pool(const Program& program, Region x, Region y,
                                     const Windows& windows, std::vector<float> counts) {
  return std::make_unique<RealPool>(program, x, y, windows, std::move(counts));
}

}  // namespace intact
