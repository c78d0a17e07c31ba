// Values moved from one arrangement to another: whatever strides and lists of indices describe.

#include <algorithm>
#include <array>
#include <cstring>
#include <type_traits>

#include "steps.hpp"

namespace intact {
namespace {

constexpr std::size_t kMostAxes = 12;
constexpr std::size_t kBytesPerJob = 16 * 1024;
constexpr std::size_t kTogetherBytes = 2048;
constexpr std::size_t kMostTogether = 16;  // a last axis this short is walked before the one before

// y[kCount i + j] = x[i + j stride]: a known count lets the compiler interleave vectors.
template <std::size_t kCount, class T>
void interleave(const T* x, std::size_t stride, std::size_t n, T* y) {
  const T* of[kCount];
  for (std::size_t j = 0; j < kCount; ++j) of[j] = x + j * stride;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < kCount; ++j) y[kCount * i + j] = of[j][i];
  }
}

// T: an unsigned integer of a value's size.
template <class T>
class Move final : public Step {
 public:
  Move(const Program& program, const Placed& x, const Placed& y, std::vector<MoveAxis> axes,
       T fill, std::vector<std::uint8_t> table)
      : x_(x), y_(y), axes_(std::move(axes)), fill_(fill), table_(std::move(table)),
        lookup_(program.engine().kernels().lookup) {
    program.check(x.region);
    program.check(y.region);
    require(!axes_.empty() && axes_.size() <= kMostAxes, "a tensor has no axes, or too many");
    require(table_.empty() || (table_.size() == 256 && sizeof(T) == 1), "a table has not 256 entries");
    std::size_t x_last = x.offset, y_last = y.offset;
    require(std::max(x_last, y_last) < SIZE_MAX / 4, "values lie outside their tensor");
    for (const MoveAxis& axis : axes_) {
      require(axis.count > 0, "a tensor is empty");
      if (axis.offsets.empty()) {
        x_last += times(axis.count - 1, axis.x_stride);
      } else {
        require(axis.offsets.size() == axis.count, "an axis has another number of offsets");
        std::int64_t most = 0;
        for (const std::int64_t offset : axis.offsets) {
          require(offset >= -1, "an offset is negative");
          most = std::max(most, offset);
        }
        x_last += static_cast<std::size_t>(most);
      }
      y_last += times(axis.count - 1, axis.y_stride);
      require(std::max(x_last, y_last) < SIZE_MAX / 4, "values lie outside their tensor");
    }
    require(x_last < x.region.bytes / sizeof(T) && y_last < y.region.bytes / sizeof(T),
            "values lie outside their tensor");
    find_row();
  }

  void run(const Context& context) const override {
    const T* x = context.at<const T>(x_.region) + x_.offset;
    T* y = context.at<T>(y_.region) + y_.offset;
    const std::size_t per_job = std::max<std::size_t>(1, kBytesPerJob / (row_values() * sizeof(T)));
    const std::size_t jobs = (rows_ + per_job - 1) / per_job;
    // Long rows are shared out, a part of a row a job.
    const std::size_t parts =
        std::clamp<std::size_t>(row_values() * sizeof(T) / kBytesPerJob, 1, length_);
    context.engine.pool().run(jobs * parts, [&](std::size_t job, std::size_t) {
      const std::size_t part = job % parts;
      std::size_t row = job / parts * per_job;
      const std::size_t end = std::min(rows_, row + per_job);
      const std::size_t first = part * length_ / parts, last = (part + 1) * length_ / parts;
      for (Place place(*this, row); row < end;) {
        const std::size_t n = std::min(end - row, place.left());
        rows(x, y, place, n, first, last);
        row += n;
        if (row < end) place.advance(n);
      }
    });
  }

 private:
  enum class Row { kTogether, kInterleaved, kStrided, kListed };

  // Where a row begins: the sums of what the first axes add; negative for what has no source.
  struct Place {
    Place(const Move& move, std::size_t row) : move(move) {
      for (std::size_t a = move.outer_; a-- > 0;) {
        index[a] = row % move.axes_[a].count;
        row /= move.axes_[a].count;
      }
      update(0);
    }
    // Rows up to the end of the axis before the row's own.
    std::size_t left() const {
      return move.outer_ == 0 ? 1 : move.axes_[move.outer_ - 1].count - index[move.outer_ - 1];
    }
    // n: at most `left()`; and there must be another row.
    void advance(std::size_t n) {
      std::size_t a = move.outer_ - 1;
      index[a] += n;
      while (index[a] == move.axes_[a].count) {
        index[a--] = 0;
        ++index[a];
      }
      update(a);
    }
    void update(std::size_t first) {
      for (std::size_t a = first; a < move.outer_; ++a) {
        const MoveAxis& axis = move.axes_[a];
        const auto step = axis.offsets.empty()
                              ? static_cast<std::ptrdiff_t>(index[a] * axis.x_stride)
                              : static_cast<std::ptrdiff_t>(axis.offsets[index[a]]);
        from[a + 1] = from[a] < 0 || step < 0 ? -1 : from[a] + step;
        to[a + 1] = to[a] + index[a] * axis.y_stride;
      }
    }
    // Where the i-th row from here begins, i < left().
    std::ptrdiff_t from_of(std::size_t i) const {
      if (i == 0) return from[move.outer_];
      const MoveAxis& axis = move.axes_[move.outer_ - 1];
      const std::size_t at = index[move.outer_ - 1] + i;
      const auto step = axis.offsets.empty() ? static_cast<std::ptrdiff_t>(at * axis.x_stride)
                                             : static_cast<std::ptrdiff_t>(axis.offsets[at]);
      return from[move.outer_ - 1] < 0 || step < 0 ? -1 : from[move.outer_ - 1] + step;
    }
    const Move& move;
    std::array<std::size_t, kMostAxes> index{};
    std::array<std::ptrdiff_t, kMostAxes + 1> from{};
    std::array<std::size_t, kMostAxes + 1> to{};
  };

  // The last axis, or the last two, as one row.
  void find_row() {
    const std::size_t rank = axes_.size();
    const MoveAxis& last = axes_.back();
    outer_ = rank - 1;
    row_ = !last.offsets.empty()                          ? Row::kListed
           : last.x_stride == 1 && last.y_stride == 1 ? Row::kTogether
                                                          : Row::kStrided;
    length_ = last.count;
    if (rank > 1 && last.offsets.empty() && last.count <= kMostTogether && last.y_stride == 1) {
      const MoveAxis& before = axes_[rank - 2];
      if (before.offsets.empty() && before.x_stride == 1 && before.y_stride == last.count) {
        row_ = Row::kInterleaved;
        length_ = before.count;
        outer_ = rank - 2;
      }
    }
    rows_ = 1;
    for (std::size_t a = 0; a < outer_; ++a) rows_ = times(rows_, axes_[a].count);
  }

  std::size_t row_values() const {
    return row_ == Row::kInterleaved ? length_ * axes_.back().count : length_;
  }

  // Of n rows from `place` on, the indices from `first` to `last`.
  void rows(const T* x, T* y, const Place& place, std::size_t n, std::size_t first,
            std::size_t last) const {
    const std::ptrdiff_t from = place.from[outer_];
    const std::size_t y_stride = outer_ == 0 ? 0 : axes_[outer_ - 1].y_stride;
    const bool even = outer_ == 0 || axes_[outer_ - 1].offsets.empty();
    y += place.to[outer_];
    if (row_ == Row::kTogether && even && from >= 0) {
      const std::size_t x_stride = outer_ == 0 ? 0 : axes_[outer_ - 1].x_stride;
      const std::size_t values = last - first;
      if (table_.empty()) {
        copy_rows(x + from + first, x_stride, y + first, y_stride, n, values);
      } else {
        copy_looked_up(x + from + first, x_stride, y + first, y_stride, n, values);
      }
      return;
    }
    const std::size_t bytes = (last - first) * sizeof(T);
    const bool plain = row_ == Row::kTogether && table_.empty();
    for (std::size_t i = 0; i < n; ++i) {
      const std::ptrdiff_t at = place.from_of(i);
      if (plain && at >= 0 && bytes == 16) {  // a call would take longer
        std::memcpy(y + i * y_stride + first, x + at + first, 16);
      } else {
        one_row(at < 0 ? nullptr : x + at, y + i * y_stride, first, last);
      }
    }
  }

  void copy_rows(const T* x, std::size_t x_stride, T* y, std::size_t y_stride, std::size_t n,
                 std::size_t values) const {
    const auto copy = [&](auto bytes) {
      for (std::size_t i = 0; i < n; ++i) std::memcpy(y + i * y_stride, x + i * x_stride, bytes);
    };
    switch (values * sizeof(T)) {  // short rows of known sizes need no call
      case 16: copy(std::integral_constant<std::size_t, 16>{}); break;
      case 32: copy(std::integral_constant<std::size_t, 32>{}); break;
      case 64: copy(std::integral_constant<std::size_t, 64>{}); break;
      default: copy(values * sizeof(T));
    }
  }

  // Looked up together: a call for every short row would cost more than the lookup.
  void copy_looked_up(const T* x, std::size_t x_stride, T* y, std::size_t y_stride, std::size_t n,
                      std::size_t values) const {
    if constexpr (sizeof(T) == 1) {
      std::uint8_t together[kTogetherBytes + kSlack];
      const std::size_t most = kTogetherBytes / values;
      for (std::size_t i = 0; i < n && most > 1; i += most) {
        const std::size_t count = std::min(most, n - i);
        copy_rows(x + i * x_stride, x_stride, together, values, count, values);
        lookup_(together, 1, count * values, count * values, table_.data());
        copy_rows(together, values, y + i * y_stride, y_stride, count, values);
      }
      if (most > 1) return;
      copy_rows(x, x_stride, y, y_stride, n, values);
      lookup_(y, n, values, y_stride, table_.data());
    }
  }

  void one_row(const T* x, T* y, std::size_t first, std::size_t end) const {
    const MoveAxis& last = axes_.back();
    const std::size_t step = last.y_stride;
    std::size_t begin = first, stop = end;  // of the values that were written
    if (row_ == Row::kInterleaved) {
      begin *= last.count;
      stop *= last.count;
    }
    if (x == nullptr) {
      for (std::size_t i = begin; i < stop; ++i) y[i * step] = fill_;
    } else if (row_ == Row::kTogether) {
      std::memcpy(y + first, x + first, (end - first) * sizeof(T));
    } else if (row_ == Row::kInterleaved) {
      interleaved(x + first, end - first, y + begin);
    } else if (row_ == Row::kStrided) {
      for (std::size_t i = first; i < end; ++i) y[i * step] = x[i * last.x_stride];
    } else {
      for (std::size_t i = first; i < end; ++i) {
        y[i * step] = last.offsets[i] < 0 ? fill_ : x[last.offsets[i]];
      }
    }
    if (table_.empty()) return;
    if constexpr (sizeof(T) == 1) {
      const std::size_t n = stop - begin;
      if (step == 1) {
        lookup_(y + begin, 1, n, n, table_.data());
      } else {
        lookup_(y + begin * step, n, 1, step, table_.data());
      }
    }
  }

  void interleaved(const T* x, std::size_t n, T* y) const {
    const MoveAxis& last = axes_.back();
    switch (last.count) {
      case 2: return interleave<2>(x, last.x_stride, n, y);
      case 3: return interleave<3>(x, last.x_stride, n, y);
      case 4: return interleave<4>(x, last.x_stride, n, y);
    }
    for (std::size_t j = 0; j < last.count; ++j) {
      const T* of = x + j * last.x_stride;
      for (std::size_t i = 0; i < n; ++i) y[i * last.count + j] = of[i];
    }
  }

  Placed x_, y_;
  std::vector<MoveAxis> axes_;
  T fill_;
  std::vector<std::uint8_t> table_;
  decltype(Kernels::lookup) lookup_;
  Row row_ = Row::kStrided;
  // length: of a row, in indices of its axis (of the one before the last if it is interleaved).
  std::size_t outer_ = 0, rows_ = 1, length_ = 1;
};

}  // namespace

std::unique_ptr<Step> make_move(const Program& program, const Placed& x, const Placed& y,
                                std::vector<MoveAxis> axes, std::size_t value_bytes,
                                std::uint64_t fill, std::vector<std::uint8_t> table) {
  if (value_bytes == 8) {
    return std::make_unique<Move<std::uint64_t>>(program, x, y, std::move(axes), fill,
                                                 std::move(table));
  }
  if (value_bytes == 4) {
    require(fill <= UINT32_MAX, "a fill has more than 4 bytes");
    return std::make_unique<Move<std::uint32_t>>(program, x, y, std::move(axes),
                                                 static_cast<std::uint32_t>(fill),
                                                 std::move(table));
  }
  require(value_bytes == 1, "a value has neither 1 nor 4 nor 8 bytes");
  require(fill <= 255, "a fill is no uint8");
  return std::make_unique<Move<std::uint8_t>>(program, x, y, std::move(axes),
                                              static_cast<std::uint8_t>(fill), std::move(table));
}

}  // namespace intact
