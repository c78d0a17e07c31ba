#include "float_ends.hpp"

#include <algorithm>
#include <limits>

#include "finish.hpp"

namespace intact {

// The sums of a panel's columns among which those are that become its extremes.
struct FloatEnds::Found {
  std::int32_t bounds[4 * kMostColumns], turn[kMostColumns];
  bool turning;

  Found(const FloatEnds& ends, const Finish& f, std::size_t columns)
      : turning(ends.movement_.course == Course::kTurning) {
    if (turning) ends.k_.turns(f, columns, ends.movement_.turn, turn);
  }
  const std::int32_t* turns() const { return turning ? turn : nullptr; }
  std::size_t rows() const { return turning ? 4 : 2; }
};

FloatEnds::FloatEnds(const Kernels& kernels, const Output& output, const Region& y, const Windows& windows,
                     std::size_t columns, bool gelu)
    : k_(kernels), out_(output), y_(y), pixels_(windows.out_height * windows.out_width), columns_(columns),
      gelu_(gelu),
      movement_(output.real->other ? Movement{Course::kOther} : movement_of(output.real->function)) {}

bool FloatEnds::is_gelu(const RealTail& real) {
  const float all = std::numeric_limits<float>::infinity();
  return real.function.function == Unary::kGelu && !real.other && real.low == -all && real.high == all;
}

Finish FloatEnds::of_place(const EndPlace& at, std::size_t rows_later) const {
  return finish_of(at.context, out_, y_, (at.row + rows_later) * columns_ + at.column, at.parameter, columns_);
}

// use(finish, done, n) for the n rows of each image, `done` rows after the first.
template <class Use>
void FloatEnds::each_image(const EndPlace& at, std::size_t count, const Use& use) const {
  const Context& context = at.context;
  for (std::size_t done = 0; done < count;) {
    const std::size_t image = (at.row + done) / pixels_;
    const std::size_t n = std::min(count - done, (image + 1) * pixels_ - at.row - done);
    Finish f = of_place(at, done);
    if (out_.found) {
      f.y = nullptr;
      if (at.written) f.q = context.at<std::uint8_t>(y_) + (at.row + done) * columns_ + at.column;
    }
    if (out_.rows) {
      f.scales = context.at<const float>(out_.rows->scales) + image;
      f.zero_points = context.at<const std::int32_t>(out_.rows->zero_points) + image;
      f.one_image = true;
    }
    if (out_.found && at.written) {
      f.q_scale = context.at<const float>(out_.found->scales)[image];
      f.q_zero_point = context.at<const std::int32_t>(out_.found->zero_points)[image];
      f.bounded = true;
    } else if (out_.extremes) {
      f.extremes = out_.extremes->of(context, at.thread, image);
    }
    use(f, done, n);
    done += n;
  }
}

void FloatEnds::finish(const EndPlace& at, const std::int32_t* sums, std::size_t panel, std::size_t count) const {
  if (!out_.rows && !out_.extremes) return k_.finish(sums, panel, count, at.width, of_place(at, 0));
  if (pixels_ == 1 && !out_.extremes) {
    // A matrix has an image a row.
    Finish f = of_place(at, 0);
    f.scales = at.context.at<const float>(out_.rows->scales) + at.row;
    f.zero_points = at.context.at<const std::int32_t>(out_.rows->zero_points) + at.row;
    return k_.finish(sums, panel, count, at.width, f);
  }
  each_image(at, count, [&](const Finish& f, std::size_t done, std::size_t n) {
    const std::int32_t* of = sums + done * panel;
    if (!by_bounds(f)) return k_.finish(of, panel, n, at.width, f);
    Found found(*this, f, panel);
    k_.bounds(of, panel, n, found.turns(), found.bounds);
    k_.finish(found.bounds, panel, found.rows(), at.width, f);
  });
}

void FloatEnds::multiply(const EndPlace& at, const Multiplication& product) const {
  if (gelu_) return k_.product_gelu(product, of_place(at, 0));
  if (!out_.rows && !out_.extremes) return k_.product_real(product, at.width, of_place(at, 0));
  each_image(at, product.count, [&](const Finish& f, std::size_t done, std::size_t n) {
    Multiplication m = product;
    m.count = n;
    m.a += done * m.stride;
    if (m.starts) m.starts += done;
    if (!by_bounds(f)) return k_.product_real(m, at.width, f);
    Found found(*this, f, m.columns);
    k_.product_bounds(m, found.turns(), found.bounds);
    k_.finish(found.bounds, m.columns, found.rows(), at.width, f);
  });
}

}  // namespace intact
