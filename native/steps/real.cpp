// Small float32 operators between the integer ones, as in squeeze-and-excite.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "rows.hpp"
#include "steps.hpp"

namespace intact {
namespace {

constexpr std::size_t kColumnsPerJob = 128;

class FloatProduct final : public Step {
 public:
  FloatProduct(const Program& program, Region x, Region y, std::size_t rows, std::size_t k,
               std::size_t n, std::vector<float> weights, std::vector<float> bias)
      : x_(x), y_(y), rows_(rows), depth_(k), n_(n), weights_(std::move(weights)),
        bias_(std::move(bias)) {
    program.check(x);
    program.check(y);
    require(rows > 0 && k > 0 && n > 0, "a tensor is empty");
    require(x.bytes >= times(times(rows, k), sizeof(float)) &&
                y.bytes >= times(times(rows, n), sizeof(float)),
            "a tensor is too small");
    require(weights_.size() == times(k, n), "weights do not fit");
    require(bias_.empty() || bias_.size() == n, "a bias does not fit");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<float>(y_);
    const std::size_t parts = (n_ + kColumnsPerJob - 1) / kColumnsPerJob;
    context.engine.pool().run(rows_ * parts, [&](std::size_t job, std::size_t) {
      const std::size_t row = job / parts, first = job % parts * kColumnsPerJob;
      const std::size_t count = std::min(kColumnsPerJob, n_ - first);
      float sums[kColumnsPerJob] = {};
      for (std::size_t i = 0; i < depth_; ++i) {
        const float value = x[row * depth_ + i];
        const float* w = &weights_[i * n_ + first];
        for (std::size_t j = 0; j < count; ++j) sums[j] += value * w[j];
      }
      for (std::size_t j = 0; j < count; ++j) {
        y[row * n_ + first + j] = sums[j] + (bias_.empty() ? 0.0f : bias_[first + j]);
      }
    });
  }

 private:
  Region x_, y_;
  std::size_t rows_, depth_, n_;
  std::vector<float> weights_, bias_;
};

class Function final : public Step {
 public:
  Function(const Program& program, Region x, Region y, std::size_t size, const Applied& function)
      : x_(x), y_(y), size_(size), function_(function), k_(program.engine().kernels()) {
    program.check(x);
    program.check(y);
    require(size > 0, "a tensor is empty");
    require(x.bytes >= times(size, sizeof(float)) && y.bytes >= times(size, sizeof(float)),
            "a tensor is too small");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<float>(y_);
    constexpr std::size_t kPerJob = 4096;
    context.engine.pool().run((size_ + kPerJob - 1) / kPerJob, [&](std::size_t job, std::size_t) {
      const std::size_t begin = job * kPerJob, n = std::min(kPerJob, size_ - begin);
      std::memcpy(y + begin, x + begin, n * sizeof(float));
      k_.unary(function_, y + begin, n);
    });
  }

 private:
  Region x_, y_;
  std::size_t size_;
  Applied function_;
  const Kernels& k_;
};

class QuantizeRows final : public Step {
 public:
  QuantizeRows(const Program& program, Region x, Region y, const RowParameters& parameters,
               std::size_t rows, std::size_t size)
      : x_(x), y_(y), p_(parameters), rows_(rows), size_(size), k_(program.engine().kernels()) {
    for (const Region& region : {x, y, p_.scales, p_.zero_points}) program.check(region);
    const std::size_t count = times(rows, size);
    require(count > 0, "a tensor is empty");
    require(x.bytes >= times(count, sizeof(float)) && y.bytes >= count, "a tensor is too small");
    require(p_.scales.bytes >= times(rows, sizeof(float)) &&
                p_.zero_points.bytes >= times(rows, sizeof(std::int32_t)),
            "there are too few scales or zero points");
    // Long rows (images) are shared out among the threads, a part at a time.
    parts_ = rows >= 8 ? 1 : std::clamp<std::size_t>(size / kPart, 1, 64);
  }

  std::size_t scratch() const override { return parts_ * 2 * sizeof(float); }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<std::uint8_t>(y_);
    auto* scales = context.at<float>(p_.scales);
    auto* points = context.at<std::int32_t>(p_.zero_points);
    if (parts_ == 1) {
      for_rows(context, rows_, size_, [&](std::size_t r) {
        float low, high;
        k_.extremes(x + r * size_, size_, &low, &high);
        parameters(low, high, scales[r], points[r]);
        k_.quantize(x + r * size_, 1, size_, size_, scales[r], points[r], y + r * size_, size_);
      });
      return;
    }
    // The caller's scratch holds the extremes of the parts: [parts][2].
    auto* found = reinterpret_cast<float*>(context.engine.scratch(0));
    for (std::size_t r = 0; r < rows_; ++r) {
      const float* row = x + r * size_;
      context.engine.pool().run(parts_, [&](std::size_t part, std::size_t) {
        const std::size_t begin = part * size_ / parts_, end = (part + 1) * size_ / parts_;
        k_.extremes(row + begin, end - begin, &found[2 * part], &found[2 * part + 1]);
      });
      float low = found[0], high = found[1];
      for (std::size_t part = 1; part < parts_; ++part) {
        low = std::min(low, found[2 * part]);
        high = std::max(high, found[2 * part + 1]);
      }
      parameters(low, high, scales[r], points[r]);
      context.engine.pool().run(parts_, [&](std::size_t part, std::size_t) {
        const std::size_t begin = part * size_ / parts_, end = (part + 1) * size_ / parts_;
        const std::size_t n = end - begin;
        k_.quantize(row + begin, 1, n, n, scales[r], points[r], y + r * size_ + begin, n);
      });
    }
  }

 private:
  static constexpr std::size_t kPart = 8192;

  static void parameters(float low, float high, float& scale, std::int32_t& zero_point) {
    low = std::min(low, 0.0f);
    high = std::max(high, 0.0f);
    scale = (high - low) / 255.0f;
    // Also where a value is NaN: nothing sensible follows, but nothing harmful either.
    if (!(scale >= std::numeric_limits<float>::min())) scale = 1.0f;
    const float point = std::nearbyint(-low / scale);
    zero_point = point >= 0.0f && point <= 255.0f ? static_cast<std::int32_t>(point)
                                                  : (point > 255.0f ? 255 : 0);
  }

  Region x_, y_;
  RowParameters p_;
  std::size_t rows_, size_, parts_;
  const Kernels& k_;
};

class Binary final : public Step {
 public:
  Binary(const Program& program, const Operand& a, const Operand& b, Region y,
         const std::string& operation, std::size_t outer, std::size_t rows, std::size_t columns)
      : a_(a), b_(b), y_(y), outer_(outer), rows_(rows), columns_(columns) {
    const Kernels& k = program.engine().kernels();
    kernel_ = operation == "Add"   ? k.add_real
              : operation == "Sub" ? k.sub_real
              : operation == "Mul" ? k.mul_real
                                   : k.div_real;
    require(kernel_ != k.div_real || operation == "Div", "an operation is unknown");
    require(outer > 0 && rows > 0 && columns > 0, "a tensor is empty");
    program.check(y);
    require(y.bytes >= times(times(times(outer, rows), columns), sizeof(float)),
            "a tensor is too small");
    for (const Operand& operand : {a, b}) {
      program.check(operand.region);
      require(operand.column_stride <= 1, "a stride of columns is neither 0 nor 1");
      const std::size_t last = times(outer - 1, operand.outer_stride) +
                               times(rows - 1, operand.row_stride) +
                               (columns - 1) * operand.column_stride;
      require(operand.region.bytes / sizeof(float) > last, "a tensor is too small");
    }
    single_[0] = a.column_stride == 0;
    single_[1] = b.column_stride == 0;
  }

  void run(const Context& context) const override {
    const auto* all_a = context.at<const float>(a_.region);
    const auto* all_b = context.at<const float>(b_.region);
    auto* y = context.at<float>(y_);
    for_rows(context, outer_ * rows_, columns_, [&](std::size_t r) {
      const std::size_t outer = r / rows_, row = r % rows_;
      const float* a = all_a + outer * a_.outer_stride + row * a_.row_stride;
      const float* b = all_b + outer * b_.outer_stride + row * b_.row_stride;
      float* to = y + r * columns_;
      float line[2][kLine];
      if (single_[0]) std::fill_n(line[0], std::min(kLine, columns_), *a);
      if (single_[1]) std::fill_n(line[1], std::min(kLine, columns_), *b);
      if (!single_[0] && !single_[1]) {
        kernel_(a, b, to, columns_);
        return;
      }
      for (std::size_t c = 0; c < columns_; c += kLine) {
        kernel_(single_[0] ? line[0] : a + c, single_[1] ? line[1] : b + c, to + c,
                std::min(kLine, columns_ - c));
      }
    });
  }

 private:
  static constexpr std::size_t kLine = 256;  // of a number that repeats

  Operand a_, b_;
  Region y_;
  bool single_[2];
  std::size_t outer_, rows_, columns_;
  decltype(Kernels::add_real) kernel_;
};

class LayerNorm final : public Step {
 public:
  LayerNorm(const Program& program, Region x, Region y, std::optional<Region> quantized,
            float scale, std::int32_t zero_point, std::size_t rows, std::vector<float> gamma,
            std::vector<float> beta, float epsilon)
      : x_(x), y_(y), quantized_(quantized), scale_(scale), zero_point_(zero_point), rows_(rows),
        gamma_(std::move(gamma)), beta_(std::move(beta)), epsilon_(epsilon),
        k_(program.engine().kernels()) {
    program.check(x);
    program.check(y);
    const std::size_t count = times(rows, gamma_.size());
    require(count > 0, "a tensor is empty");
    require(x.bytes >= times(count, sizeof(float)) && y.bytes >= times(count, sizeof(float)),
            "a tensor is too small");
    require(beta_.empty() || beta_.size() == gamma_.size(), "a bias does not fit");
    require(zero_point >= 0 && zero_point <= 255, "a zero point is no uint8");
    if (quantized_) {
      program.check(*quantized_);
      require(quantized_->bytes >= count, "a tensor is too small");
    }
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<float>(y_);
    const std::size_t size = gamma_.size();
    const float* beta = beta_.empty() ? nullptr : beta_.data();
    for_rows(context, rows_, size, [&](std::size_t r) {
      k_.layer_norm(x + r * size, size, gamma_.data(), beta, epsilon_, y + r * size);
      if (!quantized_) return;
      auto* q = context.at<std::uint8_t>(*quantized_) + r * size;
      k_.quantize(y + r * size, 1, size, size, scale_, zero_point_, q, size);
    });
  }

 private:
  Region x_, y_;
  std::optional<Region> quantized_;
  float scale_;
  std::int32_t zero_point_;
  std::size_t rows_;
  std::vector<float> gamma_, beta_;
  float epsilon_;
  const Kernels& k_;
};

class Softmax final : public Step {
 public:
  Softmax(const Program& program, Region x, Region y, std::size_t rows, std::size_t size)
      : x_(x), y_(y), rows_(rows), size_(size), softmax_(program.engine().kernels().softmax) {
    program.check(x);
    program.check(y);
    const std::size_t bytes = times(times(rows, size), sizeof(float));
    require(bytes > 0, "a tensor is empty");
    require(x.bytes >= bytes && y.bytes >= bytes, "a tensor is too small");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<float>(y_);
    for_rows(context, rows_, size_, [&](std::size_t r) {
      std::memmove(y + r * size_, x + r * size_, size_ * sizeof(float));
      softmax_(y + r * size_, size_, false);
    });
  }

 private:
  Region x_, y_;
  std::size_t rows_, size_;
  decltype(Kernels::softmax) softmax_;
};

}  // namespace

Unary unary_of(const std::string& name) {
  static const std::map<std::string, Unary> all = {
      {"Clip", Unary::kClip},           {"Gelu", Unary::kGelu},
      {"GeluTanh", Unary::kGeluTanh},   {"HardSigmoid", Unary::kHardSigmoid},
      {"HardSwish", Unary::kHardSwish}, {"LeakyRelu", Unary::kLeakyRelu},
      {"Relu", Unary::kRelu},           {"Sigmoid", Unary::kSigmoid},
      {"Swish", Unary::kSwish},         {"Tanh", Unary::kTanh},
  };
  const auto found = all.find(name);
  require(found != all.end(), "a function is unknown");
  return found->second;
}

std::unique_ptr<Step> make_float_product(const Program& program, Region x, Region y,
                                         std::size_t rows, std::size_t k, std::size_t n,
                                         std::vector<float> weights, std::vector<float> bias) {
  return std::make_unique<FloatProduct>(program, x, y, rows, k, n, std::move(weights),
                                        std::move(bias));
}

std::unique_ptr<Step> make_function(const Program& program, Region x, Region y, std::size_t size,
                                    const Applied& function) {
  return std::make_unique<Function>(program, x, y, size, function);
}

std::unique_ptr<Step> make_quantize_rows(const Program& program, Region x, Region y,
                                         const RowParameters& parameters, std::size_t rows,
                                         std::size_t size) {
  return std::make_unique<QuantizeRows>(program, x, y, parameters, rows, size);
}

std::unique_ptr<Step> make_binary(const Program& program, const Operand& a, const Operand& b,
                                  Region y, const std::string& operation, std::size_t outer,
                                  std::size_t rows, std::size_t columns) {
  return std::make_unique<Binary>(program, a, b, y, operation, outer, rows, columns);
}

std::unique_ptr<Step> make_layer_norm(const Program& program, Region x, Region y,
                                      std::optional<Region> quantized, float scale,
                                      std::int32_t zero_point, std::size_t rows,
                                      std::vector<float> gamma, std::vector<float> beta,
                                      float epsilon) {
  return std::make_unique<LayerNorm>(program, x, y, quantized, scale, zero_point, rows,
                                     std::move(gamma), std::move(beta), epsilon);
}

std::unique_ptr<Step> make_softmax(const Program& program, Region x, Region y, std::size_t rows,
                                   std::size_t size) {
  return std::make_unique<Softmax>(program, x, y, rows, size);
}

}  // namespace intact
