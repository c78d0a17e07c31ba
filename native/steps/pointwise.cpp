// Steps that work value by value.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "rows.hpp"
#include "steps.hpp"

namespace intact {
namespace {

class DequantizeStep final : public Step {
 public:
  DequantizeStep(const Program& program, Region x, Region y, std::size_t images,
                 std::size_t channels, std::size_t pixels, float scale, std::int32_t zero_point)
      : x_(x), y_(y), images_(images), channels_(channels), pixels_(pixels), scale_(scale),
        zero_point_(zero_point) {
    const std::size_t size = times(times(images, channels), pixels);
    program.check(x);
    program.check(y);
    require(size > 0, "a tensor is empty");
    require(y.bytes >= times(size, sizeof(float)) && x.bytes >= size, "a tensor is too small");
    require(zero_point >= 0 && zero_point <= 255, "a zero point is no uint8");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const std::uint8_t>(x_);
    auto* y = context.at<float>(y_);
    const std::size_t jobs = jobs_of(pixels_, channels_);
    context.engine.pool().run(images_ * jobs, [&](std::size_t job, std::size_t) {
      const std::size_t image = job / jobs;
      const Part part(pixels_, job % jobs, jobs);
      const std::uint8_t* from = x + image * channels_ * pixels_;
      float* to = y + image * channels_ * pixels_;
      for (std::size_t c = 0; c < channels_; ++c) {
        for (std::size_t p = part.begin; p < part.end; ++p) {
          to[c * pixels_ + p] =
              static_cast<float>(from[p * channels_ + c] - zero_point_) * scale_;
        }
      }
    });
  }

 private:
  Region x_, y_;
  std::size_t images_, channels_, pixels_;
  float scale_;
  std::int32_t zero_point_;
};

class Add final : public Step {
 public:
  Add(const Program& program, Region a, Region b, Region y, std::size_t size, const Sum& sum)
      : a_(a), b_(b), y_(y), size_(size), sum_(sum) {
    for (const Region& region : {a, b, y}) {
      program.check(region);
      require(region.bytes >= size, "a tensor is too small");
    }
    require(size > 0, "a tensor is empty");
    add_ = program.engine().kernels().add;
  }

  void run(const Context& context) const override {
    const auto* a = context.at<const std::uint8_t>(a_);
    const auto* b = context.at<const std::uint8_t>(b_);
    auto* y = context.at<std::uint8_t>(y_);
    const std::size_t jobs = jobs_of(size_, 1);
    context.engine.pool().run(jobs, [&](std::size_t job, std::size_t) {
      const Part part(size_, job, jobs);
      const std::size_t n = part.end - part.begin;
      add_(a + part.begin, n, b + part.begin, n, 1, n, sum_, y + part.begin, n);
    });
  }

 private:
  Region a_, b_, y_;
  std::size_t size_;
  Sum sum_;
  decltype(Kernels::add) add_;
};

class Gate final : public Step {
 public:
  Gate(const Program& program, Region a, Region gate, Region y, std::size_t images,
       std::size_t pixels, std::size_t channels, const Product& product)
      : a_(a), gate_(gate), y_(y), images_(images), pixels_(pixels), channels_(channels),
        product_(product), kernel_(program.engine().kernels().gate) {
    const std::size_t size = times(times(images, pixels), channels);
    for (const Region& region : {a, y}) {
      program.check(region);
      require(region.bytes >= size, "a tensor is too small");
    }
    program.check(gate);
    require(size > 0, "a tensor is empty");
    require(gate.bytes >= times(images, channels), "a gate is too small");
  }

  void run(const Context& context) const override {
    const auto* a = context.at<const std::uint8_t>(a_);
    const auto* gate = context.at<const std::uint8_t>(gate_);
    auto* y = context.at<std::uint8_t>(y_);
    const std::size_t jobs = jobs_of(pixels_, channels_);
    context.engine.pool().run(images_ * jobs, [&](std::size_t job, std::size_t) {
      const std::size_t image = job / jobs;
      const Part part(pixels_, job % jobs, jobs);
      const std::size_t at = (image * pixels_ + part.begin) * channels_;
      kernel_(a + at, gate + image * channels_, part.end - part.begin, channels_, product_, y + at);
    });
  }

 private:
  Region a_, gate_, y_;
  std::size_t images_, pixels_, channels_;
  Product product_;
  decltype(Kernels::gate) kernel_;
};

class Copy final : public Step {
 public:
  Copy(const Program& program, Region x, Region y, std::size_t rows, std::size_t x_stride,
       std::size_t x_offset, std::size_t columns, std::size_t y_stride, std::size_t y_offset,
       std::vector<std::uint8_t> table)
      : x_(x), y_(y), rows_(rows), x_stride_(x_stride), x_offset_(x_offset), columns_(columns),
        y_stride_(y_stride), y_offset_(y_offset), table_(std::move(table)),
        lookup_(program.engine().kernels().lookup) {
    program.check(x);
    program.check(y);
    require(rows > 0 && columns > 0, "a tensor is empty");
    require(x_offset <= x_stride && columns <= x_stride - x_offset && y_offset <= y_stride &&
                columns <= y_stride - y_offset,
            "columns lie outside their rows");
    require(x.bytes >= times(rows, x_stride) && y.bytes >= times(rows, y_stride),
            "a tensor is too small");
    require(table_.empty() || table_.size() == 256, "a table has not 256 entries");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const std::uint8_t>(x_) + x_offset_;
    auto* y = context.at<std::uint8_t>(y_) + y_offset_;
    const bool whole = columns_ == x_stride_ && columns_ == y_stride_;
    const std::size_t units = whole ? rows_ * columns_ : rows_;
    const std::size_t jobs = jobs_of(units, whole ? 1 : columns_);
    context.engine.pool().run(jobs, [&](std::size_t job, std::size_t) {
      const Part part(units, job, jobs);
      if (whole) {
        const std::size_t n = part.end - part.begin;
        std::memcpy(y + part.begin, x + part.begin, n);
        if (!table_.empty()) lookup_(y + part.begin, 1, n, n, table_.data());
        return;
      }
      for (std::size_t r = part.begin; r < part.end; ++r) {
        std::memcpy(y + r * y_stride_, x + r * x_stride_, columns_);
      }
      if (!table_.empty()) {
        lookup_(y + part.begin * y_stride_, part.end - part.begin, columns_, y_stride_, table_.data());
      }
    });
  }

 private:
  Region x_, y_;
  std::size_t rows_, x_stride_, x_offset_, columns_, y_stride_, y_offset_;
  std::vector<std::uint8_t> table_;
  decltype(Kernels::lookup) lookup_;
};

}  // namespace

std::unique_ptr<Step> make_dequantize(const Program& program, Region x, Region y,
                                      std::size_t images, std::size_t channels, std::size_t pixels,
                                      float scale, std::int32_t zero_point) {
  return std::make_unique<DequantizeStep>(program, x, y, images, channels, pixels, scale, zero_point);
}

std::unique_ptr<Step> make_add(const Program& program, Region a, Region b, Region y,
                               std::size_t size, const Sum& sum) {
  return std::make_unique<Add>(program, a, b, y, size, sum);
}

std::unique_ptr<Step> make_gate(const Program& program, Region a, Region gate, Region y,
                                std::size_t images, std::size_t pixels, std::size_t channels,
                                const Product& product) {
  return std::make_unique<Gate>(program, a, gate, y, images, pixels, channels, product);
}

std::unique_ptr<Step> make_copy(const Program& program, Region x, Region y, std::size_t rows,
                                std::size_t x_stride, std::size_t x_offset, std::size_t columns,
                                std::size_t y_stride, std::size_t y_offset,
                                std::vector<std::uint8_t> table) {
  return std::make_unique<Copy>(program, x, y, rows, x_stride, x_offset, columns, y_stride,
                                y_offset, std::move(table));
}

}  // namespace intact
