// float32 functions that few models have, by the C library, and functions of uint8 by a table: one
// value at a time.

#include <algorithm>
#include <cmath>
#include <map>

#include "steps.hpp"

namespace intact {
namespace {

using Mapped = float (*)(float x, float alpha);

float softplus(float x) { return std::max(x, 0.0f) + std::log1p(std::exp(-std::fabs(x))); }

const std::map<std::string, Mapped>& functions() {
  static const std::map<std::string, Mapped> all = {
      {"Abs", [](float x, float) { return std::fabs(x); }},
      {"Elu", [](float x, float alpha) { return x < 0 ? alpha * std::expm1(x) : x; }},
      {"Erf", [](float x, float) { return std::erf(x); }},
      {"Exp", [](float x, float) { return std::exp(x); }},
      {"Log", [](float x, float) { return std::log(x); }},
      {"Mish", [](float x, float) { return x * std::tanh(softplus(x)); }},
      {"Neg", [](float x, float) { return -x; }},
      {"Pow", [](float x, float alpha) { return alpha == 2 ? x * x : std::pow(x, alpha); }},
      {"Reciprocal", [](float x, float) { return 1 / x; }},
      {"Softplus", [](float x, float) { return softplus(x); }},
      {"Sqrt", [](float x, float) { return std::sqrt(x); }},
  };
  return all;
}

class Map final : public Step {
 public:
  Map(const Program& program, Region x, Region y, std::size_t size, const std::string& function,
      float alpha)
      : x_(x), y_(y), size_(size), alpha_(alpha) {
    program.check(x);
    program.check(y);
    require(size > 0, "a tensor is empty");
    require(x.bytes >= times(size, sizeof(float)) && y.bytes >= times(size, sizeof(float)),
            "a tensor is too small");
    const auto found = functions().find(function);
    require(found != functions().end(), "a function is unknown");
    function_ = found->second;
  }

  void run(const Context& context) const override {
    constexpr std::size_t kPerJob = 1024;
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<float>(y_);
    context.engine.pool().run((size_ + kPerJob - 1) / kPerJob, [&](std::size_t job, std::size_t) {
      for (std::size_t i = job * kPerJob; i < std::min(size_, (job + 1) * kPerJob); ++i) {
        y[i] = function_(x[i], alpha_);
      }
    });
  }

 private:
  Region x_, y_;
  std::size_t size_;
  float alpha_;
  Mapped function_;
};

class LookupFloats final : public Step {
 public:
  LookupFloats(const Program& program, Region x, Region y, std::size_t size,
               std::vector<float> table)
      : x_(x), y_(y), size_(size), table_(std::move(table)) {
    program.check(x);
    program.check(y);
    require(size > 0, "a tensor is empty");
    require(x.bytes >= size && y.bytes >= times(size, sizeof(float)), "a tensor is too small");
    require(table_.size() == 256, "a table has not 256 entries");
  }

  void run(const Context& context) const override {
    constexpr std::size_t kPerJob = 8192;
    const auto* x = context.at<const std::uint8_t>(x_);
    auto* y = context.at<float>(y_);
    context.engine.pool().run((size_ + kPerJob - 1) / kPerJob, [&](std::size_t job, std::size_t) {
      for (std::size_t i = job * kPerJob; i < std::min(size_, (job + 1) * kPerJob); ++i) {
        y[i] = table_[x[i]];
      }
    });
  }

 private:
  Region x_, y_;
  std::size_t size_;
  std::vector<float> table_;
};

}  // namespace

std::unique_ptr<Step> make_lookup_floats(const Program& program, Region x, Region y,
                                         std::size_t size, std::vector<float> table) {
  return std::make_unique<LookupFloats>(program, x, y, size, std::move(table));
}

std::unique_ptr<Step> make_map(const Program& program, Region x, Region y, std::size_t size,
                               const std::string& function, float alpha) {
  return std::make_unique<Map>(program, x, y, size, function, alpha);
}

}  // namespace intact
