#pragma once

// What a product's sums become where it ends in floats, or in the uint8 of parameters that each image or row has.

#include "steps.hpp"

namespace intact {

constexpr std::size_t kMostColumns = 64;  // of a block of any instruction set

// Sums of a panel's columns in the output: its row of the first, its column of the first, which is number
// `parameter` of the padded ones, and how many of the columns are the output's.
struct EndPlace {
  const Context& context;
  std::size_t thread;
  bool written;  // whether more than the extremes is wanted
  std::size_t row, column, parameter, width;
};

class FloatEnds {
 public:
  // output.real is there. gelu: products end by product_gelu. What is given by reference has to stay.
  FloatEnds(const Kernels& kernels, const Output& output, const Region& y, const Windows& windows, std::size_t columns,
            bool gelu);

  // Whether it is GELU of floats, without anything that is added or clamped.
  static bool is_gelu(const RealTail& real);

  // `count` rows of sums that lie in memory, `panel` columns wide.
  void finish(const EndPlace& at, const std::int32_t* sums, std::size_t panel, std::size_t count) const;
  // A product whose sums end in registers.
  void multiply(const EndPlace& at, const Multiplication& product) const;

 private:
  struct Found;

  Finish of_place(const EndPlace& at, std::size_t rows_later) const;
  template <class Use>
  void each_image(const EndPlace& at, std::size_t count, const Use& use) const;
  // Whether all that is wanted is the extremes, which those of the sums become.
  bool by_bounds(const Finish& f) const { return !f.y && !f.q && movement_.course != Course::kOther; }

  const Kernels& k_;
  const Output& out_;
  const Region& y_;
  std::size_t pixels_, columns_;  // of an image, and of a row
  bool gelu_;
  Movement movement_;
};

}  // namespace intact
