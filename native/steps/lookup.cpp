// Rows of tables chosen by indices that are known when the program runs, and sums along an axis.

#include <cstring>
#include <string>
#include <type_traits>

#include "rows.hpp"
#include "steps.hpp"

namespace intact {
namespace {

using Whole = std::int64_t;

enum class Entry { kFloat, kWhole, kInt8, kUint8 };

// y[outer][i] = table[outer][indices[i]], rows of `size` values, times a scale if there is one.
class Gather final : public Step {
 public:
  Gather(const Program& program, Region table, Region indices, Region y,
         const std::optional<Region>& scales, const GatherSizes& sizes, const std::string& type,
         float scale, std::int32_t zero_point, std::string label)
      : table_(table), indices_(indices), y_(y), scales_(scales), s_(sizes), entry_(entry_of(type)),
        scale_(scale), zero_point_(zero_point), label_(std::move(label)) {
    for (const Region& region : {table, indices, y}) program.check(region);
    require(zero_point >= -255 && zero_point <= 255, "a zero point is not of 8 bits");
    require(s_.outer > 0 && s_.rows > 0 && s_.count > 0 && s_.size > 0, "a tensor is empty");
    const std::size_t y_bytes = entry_ == Entry::kWhole ? sizeof(Whole) : sizeof(float);
    const bool small = entry_ == Entry::kInt8 || entry_ == Entry::kUint8;
    require(table.bytes >= times(times(times(s_.outer, s_.rows), s_.size), small ? 1 : y_bytes) &&
                indices.bytes >= times(s_.count, sizeof(Whole)) &&
                y.bytes >= times(times(times(s_.outer, s_.count), s_.size), y_bytes),
            "a tensor is too small");
    if (scales_) {
      program.check(*scales_);
      require(scales_->bytes >= times(s_.rows, sizeof(float)), "there are too few scales");
    }
  }

  void run(const Context& context) const override {
    const auto* indices = context.at<const Whole>(indices_);
    const auto rows = static_cast<Whole>(s_.rows);
    for (std::size_t i = 0; i < s_.count; ++i) {
      if (indices[i] < -rows || indices[i] >= rows) {
        throw std::out_of_range("'" + label_ + "' looks up index " + std::to_string(indices[i]) +
                                "; its table takes indices from " + std::to_string(-rows) + " to " +
                                std::to_string(rows - 1));
      }
    }
    const auto* table = context.at<const std::uint8_t>(table_);
    const auto* scales = scales_ ? context.at<const float>(*scales_) : nullptr;
    auto* y = context.at<float>(y_);
    for_rows(context, s_.outer * s_.count, s_.size, [&](std::size_t r, std::size_t) {
      const Whole index = indices[r % s_.count];
      const std::size_t row = static_cast<std::size_t>(index < 0 ? index + rows : index);
      const std::size_t first = (r / s_.count * s_.rows + row) * s_.size;
      const float scale = scales ? scales[row] : scale_;
      float* to = y + r * s_.size;
      switch (entry_) {
        case Entry::kWhole:
          std::memcpy(context.at<Whole>(y_) + r * s_.size,
                      reinterpret_cast<const Whole*>(table) + first, s_.size * sizeof(Whole));
          return;
        case Entry::kFloat: return copy(reinterpret_cast<const float*>(table) + first, scale, to);
        case Entry::kInt8: return copy(reinterpret_cast<const std::int8_t*>(table) + first, scale, to);
        case Entry::kUint8: return copy(table + first, scale, to);
      }
    });
  }

 private:
  static Entry entry_of(const std::string& type) {
    if (type == "float32") return Entry::kFloat;
    if (type == "int64") return Entry::kWhole;
    if (type == "int8") return Entry::kInt8;
    require(type == "uint8", "a table is neither float32, int64 nor of 8 bits");
    return Entry::kUint8;
  }

  void copy(const float* x, float scale, float* y) const {
    for (std::size_t i = 0; i < s_.size; ++i) y[i] = x[i] * scale;
  }

  template <class T>
  void copy(const T* x, float scale, float* y) const {
    for (std::size_t i = 0; i < s_.size; ++i) {
      y[i] = static_cast<float>(static_cast<std::int32_t>(x[i]) - zero_point_) * scale;
    }
  }

  Region table_, indices_, y_;
  std::optional<Region> scales_;
  GatherSizes s_;
  Entry entry_;
  float scale_;
  std::int32_t zero_point_;
  std::string label_;
};

// y[outer][i][inner] = x[outer][0][inner] + ... + x[outer][i][inner].
template <class T>
class RunningSum final : public Step {
 public:
  RunningSum(const Program& program, Region x, Region y, std::size_t outer, std::size_t count,
             std::size_t inner)
      : x_(x), y_(y), outer_(outer), count_(count), inner_(inner) {
    program.check(x);
    program.check(y);
    const std::size_t bytes = times(times(times(outer, count), inner), sizeof(T));
    require(bytes > 0, "a tensor is empty");
    require(x.bytes >= bytes && y.bytes >= bytes, "a tensor is too small");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const T>(x_);
    auto* y = context.at<T>(y_);
    for (std::size_t o = 0; o < outer_; ++o) {
      for (std::size_t i = 0; i < inner_; ++i) {
        // Unsigned sums may wrap around.
        std::conditional_t<std::is_integral_v<T>, std::uint64_t, T> sum{};
        for (std::size_t at = o * count_ * inner_ + i, n = 0; n < count_; ++n, at += inner_) {
          sum += static_cast<decltype(sum)>(x[at]);
          y[at] = static_cast<T>(sum);
        }
      }
    }
  }

 private:
  Region x_, y_;
  std::size_t outer_, count_, inner_;
};

}  // namespace

std::unique_ptr<Step> make_gather(const Program& program, Region table, Region indices, Region y,
                                  const std::optional<Region>& scales, const GatherSizes& sizes,
                                  const std::string& type, float scale, std::int32_t zero_point,
                                  std::string label) {
  return std::make_unique<Gather>(program, table, indices, y, scales, sizes, type, scale,
                                  zero_point, std::move(label));
}

std::unique_ptr<Step> make_running_sum(const Program& program, Region x, Region y,
                                       std::size_t outer, std::size_t count, std::size_t inner,
                                       bool whole) {
  if (whole) return std::make_unique<RunningSum<Whole>>(program, x, y, outer, count, inner);
  return std::make_unique<RunningSum<float>>(program, x, y, outer, count, inner);
}

}  // namespace intact
