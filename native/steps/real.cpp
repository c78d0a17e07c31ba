// Small float32 operators between the integer ones, as in squeeze-and-excite.

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>

#include "rows.hpp"
#include "steps.hpp"

namespace intact {
namespace {

class FloatProduct final : public Step {
 public:
  FloatProduct(const Program& program, Region x, Region y, std::size_t rows,
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
  Binary(const Program& program, const Operand& a, const Operand& b, Region y,
         const std::string& operation, std::size_t outer, std::size_t rows, std::size_t columns,
         std::optional<Extremes> extremes)
      : a_(a), b_(b), y_(y), outer_(outer), rows_(rows), columns_(columns), extremes_(extremes),
        k_(program.engine().kernels()) {
    kernel_ = operation == "Add"   ? k_.add_real
              : operation == "Sub" ? k_.sub_real
              : operation == "Mul" ? k_.mul_real
                                   : k_.div_real;
    require(kernel_ != k_.div_real || operation == "Div", "an operation is unknown");
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
    const bool one = repeats(a) != repeats(b), other = goes_on(a) || goes_on(b);
    if (one && other && columns < kTile) together_ = kTile / columns;
    // What goes together belongs to one image.
    if (extremes_ && (extremes_->images > outer || outer % extremes_->images != 0)) together_ = 1;
    if (extremes_) extremes_->check(program, times(outer, rows));
  }

  std::size_t scratch() const override { return together_ > 1 ? kTile * sizeof(float) + kSlack : 0; }

  void run(const Context& context) const override {
    const auto* all_a = context.at<const float>(a_.region);
    const auto* all_b = context.at<const float>(b_.region);
    auto* y = context.at<float>(y_);
    if (extremes_) extremes_->clear(context);
    const std::size_t rows = outer_ * rows_, parts = jobs_of(columns_, 1);
    // Short rows several at a time, long ones in parts.
    const std::size_t jobs = parts > 1 ? rows : jobs_of(rows, columns_);
    context.engine.pool().run(jobs * parts, [&](std::size_t job, std::size_t thread) {
      const Part all(rows, job / parts, jobs), columns(columns_, job % parts, parts);
      const std::size_t first = columns.begin, n = columns.end - columns.begin;
      float* tile = reinterpret_cast<float*>(context.engine.scratch(thread));
      std::size_t held = outer_;  // whose numbers are in the tile
      for (std::size_t r = all.begin, next; r < all.end; r = next) {
        const std::size_t outer = r / rows_, row = r % rows_;
        const float* a = all_a + outer * a_.outer_stride + row * a_.row_stride + first * a_.column_stride;
        const float* b = all_b + outer * b_.outer_stride + row * b_.row_stride + first * b_.column_stride;
        float* to = y + r * columns_ + first;
        std::size_t size = n;
        next = r + 1;
        if (together_ > 1) {
          const float*& repeated = repeats(a_) ? a : b;
          if (outer != held) fill(tile, repeated);
          held = outer;
          repeated = tile;
          next = std::min({r + together_, all.end, (outer + 1) * rows_});
          size = (next - r) * columns_;
        }
        combine(a, b, to, size);
        if (!extremes_) continue;
        float* found = extremes_->of(context, thread, r / (rows / extremes_->images));
        k_.extremes(to, size, &found[0], &found[1]);
      }
    });
  }

 private:
  static constexpr std::size_t kLine = 256;  // of a number that repeats

  static constexpr std::size_t kTile = 2048;  // floats of a row that repeats

  // Whether it is one row again and again, or rows one after another.
  bool repeats(const Operand& x) const { return x.row_stride == 0 && x.column_stride == 1; }
  bool goes_on(const Operand& x) const { return x.row_stride == columns_ && x.column_stride == 1; }

  // Rows of few columns are computed together: the tile holds one that repeats as often as they need.
  void fill(float* tile, const float* row) const {
    for (std::size_t i = 0; i < together_; ++i) std::copy_n(row, columns_, tile + i * columns_);
  }

  void combine(const float* a, const float* b, float* y, std::size_t n) const {
    if (!single_[0] && !single_[1]) return kernel_(a, b, y, n);
    float line[2][kLine];
    if (single_[0]) std::fill_n(line[0], std::min(kLine, n), *a);
    if (single_[1]) std::fill_n(line[1], std::min(kLine, n), *b);
    for (std::size_t c = 0; c < n; c += kLine) {
      kernel_(single_[0] ? line[0] : a + c, single_[1] ? line[1] : b + c, y + c,
              std::min(kLine, n - c));
    }
  }

  Operand a_, b_;
  Region y_;
  bool single_[2];
  std::size_t outer_, rows_, columns_, together_ = 1;
  decltype(Kernels::add_real) kernel_;
  std::optional<Extremes> extremes_;
  const Kernels& k_;
};

class LayerNorm final : public Step {
 public:
  LayerNorm(const Program& program, Region x, Region y, std::optional<Quantized> quantized,
            std::size_t rows, std::vector<float> gamma, std::vector<float> beta, float epsilon)
      : x_(x), y_(y), quantized_(quantized), rows_(rows), gamma_(std::move(gamma)),
        beta_(std::move(beta)), epsilon_(epsilon), k_(program.engine().kernels()) {
    program.check(x);
    program.check(y);
    const std::size_t count = times(rows, gamma_.size());
    require(count > 0, "a tensor is empty");
    require(x.bytes >= times(count, sizeof(float)) && y.bytes >= times(count, sizeof(float)),
            "a tensor is too small");
    require(beta_.empty() || beta_.size() == gamma_.size(), "a bias does not fit");
    if (quantized_) {
      program.check(quantized_->y);
      require(quantized_->y.bytes >= count, "a tensor is too small");
      const std::int32_t zero_point = quantized_->zero_point;
      require(zero_point >= 0 && zero_point <= 255, "a zero point is no uint8");
      if (quantized_->rows) quantized_->rows->check(program, rows);
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
      auto* q = context.at<std::uint8_t>(quantized_->y) + r * size;
      float scale = quantized_->scale;
      std::int32_t zero_point = quantized_->zero_point;
      if (const auto& of = quantized_->rows) {
        float found[2] = {};
        k_.extremes(y + r * size, size, &found[0], &found[1]);
        of->set(context, r, found[0], found[1]);
        scale = context.at<const float>(of->scales)[r];
        zero_point = context.at<const std::int32_t>(of->zero_points)[r];
      }
      k_.quantize(y + r * size, size, scale, zero_point, quantized_->rows.has_value(), q);
    });
  }

 private:
  Region x_, y_;
  std::optional<Quantized> quantized_;
  std::size_t rows_;
  std::vector<float> gamma_, beta_;
  float epsilon_;
  const Kernels& k_;
};

class Softmax final : public Step {
 public:
  Softmax(const Program& program, Region x, Region y, std::size_t rows, std::size_t size,
          bool logarithm)
      : x_(x), y_(y), rows_(rows), size_(size), logarithm_(logarithm),
        k_(program.engine().kernels()) {
    program.check(x);
    program.check(y);
    const std::size_t bytes = times(times(rows, size), sizeof(float));
    require(bytes > 0, "a tensor is empty");
    require(x.bytes >= bytes && y.bytes >= bytes, "a tensor is too small");
  }

  void run(const Context& context) const override {
    for_rows(context, rows_, size_, [&](std::size_t r, std::size_t) {
      const float* x = context.at<const float>(x_) + r * size_;
      float* y = context.at<float>(y_) + r * size_;
      std::memmove(y, x, size_ * sizeof(float));
      k_.softmax(y, size_, false);
      if (!logarithm_) return;
      // The largest probability is 1 / sum of e**(x - most): small ones have no part in it.
      const float top = *std::max_element(y, y + size_), most = *std::max_element(x, x + size_);
      const float rest = std::log(top);
      for (std::size_t i = 0; i < size_; ++i) y[i] = (x[i] - most) + rest;
    });
  }

 private:
  Region x_, y_;
  std::size_t rows_, size_;
  bool logarithm_;
  const Kernels& k_;
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
                                         std::size_t rows,
                                         std::shared_ptr<const PackedReals> weights,
                                         std::vector<float> bias) {
  return std::make_unique<FloatProduct>(program, x, y, rows, std::move(weights), std::move(bias));
}

std::unique_ptr<Step> make_function(const Program& program, Region x, Region y, std::size_t size,
                                    const Applied& function) {
  return std::make_unique<Function>(program, x, y, size, function);
}

std::unique_ptr<Step> make_binary(const Program& program, const Operand& a, const Operand& b,
                                  Region y, const std::string& operation, std::size_t outer,
                                  std::size_t rows, std::size_t columns,
                                  std::optional<Extremes> extremes) {
  return std::make_unique<Binary>(program, a, b, y, operation, outer, rows, columns, extremes);
}

std::unique_ptr<Step> make_layer_norm(const Program& program, Region x, Region y,
                                      std::optional<Quantized> quantized, std::size_t rows,
                                      std::vector<float> gamma, std::vector<float> beta,
                                      float epsilon) {
  return std::make_unique<LayerNorm>(program, x, y, quantized, rows, std::move(gamma),
                                     std::move(beta), epsilon);
}

std::unique_ptr<Step> make_softmax(const Program& program, Region x, Region y, std::size_t rows,
                                   std::size_t size, bool logarithm) {
  return std::make_unique<Softmax>(program, x, y, rows, size, logarithm);
}

}  // namespace intact
