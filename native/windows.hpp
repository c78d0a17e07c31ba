#pragma once

// How the windows of a convolution are read: gathered one by one, or slid over a copy of the image's
// lines in which the windows of adjacent outputs lie a fixed distance apart, so that nothing is copied
// more than once.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "checks.hpp"
#include "kernels.hpp"

namespace intact {

// The shape of a kernel and how it moves.
struct Kernel {
  std::size_t h, w, stride_h, stride_w, dilation_h, dilation_w;

  bool pointwise() const { return h == 1 && w == 1; }
};

// Two-dimensional windows over images in NHWC.
struct Windows {
  std::size_t images, height, width, channels, out_height, out_width;
  std::size_t kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top, pad_left;

  std::size_t in_pixels() const { return times(times(images, height), width); }
  std::size_t out_pixels() const { return times(times(images, out_height), out_width); }
  Kernel kernel() const { return {kernel_h, kernel_w, stride_h, stride_w, dilation_h, dilation_w}; }
  // Checks that sizes are positive and that places can be computed.
  void check() const;
};

enum class Order {
  kGathered,  // whole windows, one after another
  kTaps,      // the channels of one pixel of the window at a time, or of one line of it
  kLines      // all that a few lines of the window hold at a time: few channels
};

// Rows of the matrix of windows as pieces of `k` values. channels: of each group.
struct Reading {
  Order order;
  std::size_t channels, taps, k;
};

Reading reading_of(const Kernels& kernels, const Kernel& kernel, std::size_t groups, std::size_t k);
// Where value `i` of a window [h][w][channels] lies in a row that is read in that order.
std::size_t place_of(const Kernel& kernel, const Reading& reading, std::size_t i);

// A copy of some lines of an image, padded. The window of output (line, column) begins at
// (line * pitch() + column) * step() of it, and piece t of that at offsets()[t] further.
//
// kTaps: the lines that one line of the kernel reads for adjacent outputs lie together:
// [(line mod stride)][line / stride][pixel][channels].
// kLines: [line / stride][pixel / stride][line mod stride][pixel mod stride][channels].
class Lines {
 public:
  Lines() = default;
  Lines(const Windows& w, const Reading& reading, std::size_t out_lines);

  const std::vector<std::size_t>& offsets() const { return offsets_; }
  std::size_t pitch() const { return pitch_; }  // from line to line, in outputs: more than there are
  std::size_t step() const { return step_; }
  std::size_t bytes() const { return bytes_; }
  // Windows a fixed distance apart that `lines` lines take, those between lines among them.
  std::size_t rows(std::size_t lines) const { return (lines - 1) * pitch_ + w_.out_width; }
  // Where the windows of the outputs begin, in bytes.
  std::vector<std::uint32_t> starts() const;
  // The lines for outputs from line `first` on.
  void fill(const std::uint8_t* image, std::size_t first, std::size_t out_lines, std::uint8_t zero,
            std::uint8_t* to) const;

 private:
  void fill_line(const std::uint8_t* image, std::ptrdiff_t line, std::uint8_t zero,
                 std::uint8_t* to) const;
  void fill_group(const std::uint8_t* image, std::ptrdiff_t line, std::uint8_t zero,
                  std::uint8_t* to) const;
  // The pixels of group `line` at pixel / stride = q.
  void fill_piece(const std::uint8_t* image, std::ptrdiff_t line, std::size_t q, std::uint8_t zero,
                  std::uint8_t* to) const;

  Windows w_{};
  Order order_ = Order::kTaps;
  std::size_t pitch_ = 0, step_ = 0, line_bytes_ = 0, deepest_ = 0, out_lines_ = 0, bytes_ = 0;
  std::vector<std::size_t> offsets_, residues_;
};

}  // namespace intact
