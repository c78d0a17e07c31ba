// Matrix products of float32 with packed weights.

#include <algorithm>
#include <cstring>

#include "steps.hpp"

namespace intact {
namespace {

class RealProduct final : public Step {
 public:
  RealProduct(const Program& program, Region x, Region y, std::size_t rows,
               std::shared_ptr<const PackedReals> weights, std::vector<float> bias)
      : x_(x), y_(y), rows_(rows), weights_(std::move(weights)), bias_(std::move(bias)),
        k_(program.engine().kernels()) {
    require(weights_ && weights_->groups == 1, "weights do not fit");
    program.check(x);
    program.check(y);
    const std::size_t depth = weights_->k, n = weights_->n;
    require(rows > 0 && depth > 0 && n > 0, "a tensor is empty");
    require(x.bytes >= times(times(rows, depth), sizeof(float)) &&
                y.bytes >= times(times(rows, n), sizeof(float)),
            "a tensor is too small");
    require(bias_.empty() || bias_.size() == n, "a bias does not fit");
    const std::size_t panels = (n + kRealColumns - 1) / kRealColumns;
    const std::size_t work = depth * kRealColumns * std::min(rows, kRowsPerJob);
    const std::size_t per_job = std::clamp<std::size_t>(kProductsPerJob / work, 1, panels);
    panels_per_job_ = per_job;
    parts_ = (panels + per_job - 1) / per_job;
  }

  std::size_t scratch() const override { return kRowsPerJob * kRealColumns * sizeof(float); }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<float>(y_);
    const std::size_t depth = weights_->k, n = weights_->n;
    const std::size_t blocks = (rows_ + kRowsPerJob - 1) / kRowsPerJob;
    context.engine.pool().run(blocks * parts_, [&](std::size_t job, std::size_t thread) {
      auto* sums = reinterpret_cast<float*>(context.engine.scratch(thread));
      const std::size_t row = job / parts_ * kRowsPerJob, count = std::min(kRowsPerJob, rows_ - row);
      const std::size_t first = job % parts_ * panels_per_job_ * kRealColumns;
      const std::size_t end = std::min(n, first + panels_per_job_ * kRealColumns);
      for (std::size_t column = first; column < end; column += kRealColumns) {
        const std::size_t width = std::min(kRealColumns, end - column);
        k_.real_product(x + row * depth, depth, count, weights_->panel(0, column), depth, sums,
                        kRealColumns);
        for (std::size_t r = 0; r < count; ++r) {
          float* to = y + (row + r) * n + column;
          if (bias_.empty()) {
            std::memcpy(to, sums + r * kRealColumns, width * sizeof(float));
          } else {
            k_.add_real(sums + r * kRealColumns, &bias_[column], to, width);
          }
        }
      }
    });
  }

 private:
  static constexpr std::size_t kRowsPerJob = 48, kProductsPerJob = 32 * 1024;

  Region x_, y_;
  std::size_t rows_;
  std::shared_ptr<const PackedReals> weights_;
  std::vector<float> bias_;
  const Kernels& k_;
  std::size_t panels_per_job_, parts_;
};

}  // namespace

std::unique_ptr<Step> make_real_product(const Program& program, Region x, Region y,
                                        std::size_t rows,
                                        std::shared_ptr<const PackedReals> weights,
                                        std::vector<float> bias) {
  return std::make_unique<RealProduct>(program, x, y, rows, std::move(weights), std::move(bias));
}

}  // namespace intact
