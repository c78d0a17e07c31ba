// Small float32 operators between the integer ones, as in squeeze-and-excite.

#include <algorithm>
#include <cmath>
#include <map>

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

using Scalar = float (*)(float x, float alpha, float beta);

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

const std::map<std::string, Scalar>& functions() {
  static const std::map<std::string, Scalar> all = {
      {"Clip", [](float x, float a, float b) { return std::min(std::max(x, a), b); }},
      {"HardSigmoid",
       [](float x, float a, float b) { return std::min(std::max(a * x + b, 0.0f), 1.0f); }},
      {"HardSwish",
       [](float x, float, float) {
         return x * std::min(std::max(x / 6.0f + 0.5f, 0.0f), 1.0f);
       }},
      {"LeakyRelu", [](float x, float a, float) { return x < 0 ? a * x : x; }},
      {"Relu", [](float x, float, float) { return std::max(x, 0.0f); }},
      {"Sigmoid", [](float x, float, float) { return sigmoid(x); }},
      {"Swish", [](float x, float, float) { return x * sigmoid(x); }},
      {"Tanh", [](float x, float, float) { return std::tanh(x); }},
  };
  return all;
}

class Function final : public Step {
 public:
  Function(const Program& program, Region x, Region y, std::size_t size, const std::string& name,
           float alpha, float beta)
      : x_(x), y_(y), size_(size), alpha_(alpha), beta_(beta) {
    program.check(x);
    program.check(y);
    require(size > 0, "a tensor is empty");
    require(x.bytes >= times(size, sizeof(float)) && y.bytes >= times(size, sizeof(float)),
            "a tensor is too small");
    const auto found = functions().find(name);
    require(found != functions().end(), "a function is unknown");
    function_ = found->second;
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<float>(y_);
    constexpr std::size_t kPerJob = 4096;
    context.engine.pool().run((size_ + kPerJob - 1) / kPerJob, [&](std::size_t job, std::size_t) {
      const std::size_t end = std::min(size_, (job + 1) * kPerJob);
      for (std::size_t i = job * kPerJob; i < end; ++i) y[i] = function_(x[i], alpha_, beta_);
    });
  }

 private:
  Region x_, y_;
  std::size_t size_;
  float alpha_, beta_;
  Scalar function_;
};

}  // namespace

std::unique_ptr<Step> make_float_product(const Program& program, Region x, Region y,
                                         std::size_t rows, std::size_t k, std::size_t n,
                                         std::vector<float> weights, std::vector<float> bias) {
  return std::make_unique<FloatProduct>(program, x, y, rows, k, n, std::move(weights),
                                        std::move(bias));
}

std::unique_ptr<Step> make_function(const Program& program, Region x, Region y, std::size_t size,
                                    const std::string& name, float alpha, float beta) {
  return std::make_unique<Function>(program, x, y, size, name, alpha, beta);
}

}  // namespace intact
