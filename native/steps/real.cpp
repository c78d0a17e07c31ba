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

class Binary final : public Step {
 public:
  Binary(const Program& program, const Operand& a, const Operand& b, Region y, bool product,
         std::size_t outer, std::size_t rows, std::size_t columns, std::optional<Extremes> extremes)
      : a_(a), b_(b), y_(y), product_(product), outer_(outer), rows_(rows), columns_(columns),
        extremes_(extremes), k_(program.engine().kernels()) {
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
    single_ = a.column_stride == 0 || b.column_stride == 0;
    if (extremes_) extremes_->check(program, times(outer, rows));
  }

  void run(const Context& context) const override {
    const auto* all_a = context.at<const float>(a_.region);
    const auto* all_b = context.at<const float>(b_.region);
    auto* y = context.at<float>(y_);
    const auto kernel = product_ ? k_.mul_real : k_.add_real;
    if (extremes_) extremes_->clear(context);
    const std::size_t rows = outer_ * rows_, parts = jobs_of(columns_, 1);
    // Short rows several at a time, long ones in parts.
    const std::size_t jobs = parts > 1 ? rows : jobs_of(rows, columns_);
    context.engine.pool().run(jobs * parts, [&](std::size_t job, std::size_t thread) {
      const Part all(rows, job / parts, jobs), columns(columns_, job % parts, parts);
      const std::size_t first = columns.begin, n = columns.end - columns.begin;
      for (std::size_t r = all.begin; r < all.end; ++r) {
        const std::size_t outer = r / rows_, row = r % rows_;
        const float* a = all_a + outer * a_.outer_stride + row * a_.row_stride + first * a_.column_stride;
        const float* b = all_b + outer * b_.outer_stride + row * b_.row_stride + first * b_.column_stride;
        float* to = y + r * columns_ + first;
        if (!single_) {
          kernel(a, b, to, n);
        } else {
          for (std::size_t c = 0; c < n; ++c) {
            const float p = a[c * a_.column_stride], q = b[c * b_.column_stride];
            to[c] = product_ ? p * q : p + q;
          }
        }
        if (!extremes_) continue;
        float* found = extremes_->of(context, thread, r / (rows / extremes_->images));
        k_.extremes(to, n, &found[0], &found[1]);
      }
    });
  }

 private:
  Operand a_, b_;
  Region y_;
  bool product_, single_;
  std::size_t outer_, rows_, columns_;
  std::optional<Extremes> extremes_;
  const Kernels& k_;
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
    for_rows(context, rows_, size, [&](std::size_t r, std::size_t) {
      k_.layer_norm(x + r * size, size, gamma_.data(), beta, epsilon_, y + r * size);
      if (!quantized_) return;
      auto* q = context.at<std::uint8_t>(*quantized_) + r * size;
      k_.quantize(y + r * size, size, scale_, zero_point_, q);
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
    for_rows(context, rows_, size_, [&](std::size_t r, std::size_t) {
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

std::unique_ptr<Step> make_binary(const Program& program, const Operand& a, const Operand& b,
                                  Region y, bool product, std::size_t outer, std::size_t rows,
                                  std::size_t columns, std::optional<Extremes> extremes) {
  return std::make_unique<Binary>(program, a, b, y, product, outer, rows, columns, extremes);
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
