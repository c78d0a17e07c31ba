#include "windows.hpp"

#include <algorithm>
#include <cstring>

namespace intact {
namespace {

constexpr std::size_t kMostPieceBytes = 64;  // of few channels
constexpr std::size_t kTallestKernel = 32;   // whose lines are copied that way
constexpr std::size_t kSmallStep = 4;        // values of K that few zeros fill up

}  // namespace

void Windows::check() const {
  require(images > 0 && height > 0 && width > 0 && channels > 0, "an image has no values");
  require(out_height > 0 && out_width > 0, "a convolution has no output");
  require(kernel_h > 0 && kernel_w > 0 && stride_h > 0 && stride_w > 0 && dilation_h > 0 &&
              dilation_w > 0,
          "a kernel, stride or dilation is zero");
  constexpr std::size_t kMost = std::size_t{1} << 31;
  for (const std::size_t size : {images, height, width, channels, out_height, out_width, kernel_h,
                                 kernel_w, stride_h, stride_w, dilation_h, dilation_w, pad_top,
                                 pad_left}) {
    require(size < kMost, "a size is too large");
  }
  // Where a window lies is a sum of three of these products; windows may lie in padding alone.
  for (const std::size_t reach : {times(out_height, stride_h), times(out_width, stride_w),
                                  times(kernel_h, dilation_h), times(kernel_w, dilation_w)}) {
    require(reach < kMost, "a window lies too far away");
  }
  times(in_pixels(), channels);
  times(out_pixels(), times(kernel_h, kernel_w));
}

Reading reading_of(const Kernels& kernels, const Kernel& kernel, std::size_t groups, std::size_t k) {
  const std::size_t pixels = times(kernel.h, kernel.w), channels = k / pixels;
  const Reading gathered{Order::kGathered, channels, 1, round_up(k, kernels.k_step)};
  if (kernel.pointwise() || channels * pixels != k) return gathered;
  // In small steps a line of the window is one piece, where its pixels are adjacent.
  if (kernels.k_step <= kSmallStep && groups == 1 && kernel.dilation_w == 1) {
    return {Order::kTaps, channels, kernel.h, round_up(kernel.w * channels, kernels.k_step)};
  }
  if (channels % kernels.k_step == 0) return {Order::kTaps, channels, pixels, channels};
  const std::size_t stride = kernel.stride_h;
  const bool plain = groups == 1 && kernel.stride_w == stride && kernel.dilation_h == 1 &&
                     kernel.dilation_w == 1 && stride <= kernel.h && stride <= kernel.w &&
                     kernel.h <= kTallestKernel;
  if (!plain || times(stride, times(stride, channels)) > kMostPieceBytes) return gathered;
  const std::size_t bytes = divide_up(kernel.w, stride) * stride * stride * channels;
  if (bytes > kMostPieceBytes) return gathered;
  return {Order::kLines, channels, divide_up(kernel.h, stride), round_up(bytes, kernels.k_step)};
}

std::size_t place_of(const Kernel& kernel, const Reading& reading, std::size_t i) {
  const std::size_t channels = reading.channels;
  if (reading.order == Order::kTaps) {
    const std::size_t values = kernel.h * kernel.w / reading.taps * channels;  // of a tap
    return i / values * reading.k + i % values;
  }
  const std::size_t stride = kernel.stride_h, c = i % channels;
  const std::size_t x = i / channels % kernel.w, y = i / channels / kernel.w;
  const std::size_t within = ((x / stride * stride + y % stride) * stride + x % stride) * channels + c;
  return y / stride * reading.k + within;
}

Lines::Lines(const Windows& w, const Reading& reading, std::size_t out_lines)
    : w_(w), order_(reading.order), out_lines_(out_lines) {
  const std::size_t reach_w = (w.kernel_w - 1) * w.dilation_w, reach_h = (w.kernel_h - 1) * w.dilation_h;
  pitch_ = divide_up((w.out_width - 1) * w.stride_w + reach_w + 1, w.stride_w);
  deepest_ = out_lines + reach_h / w.stride_h;
  if (order_ == Order::kLines) {
    step_ = w.stride_h * w.stride_w * w.channels;
    line_bytes_ = times(pitch_, step_);
    for (std::size_t t = 0; t < reading.taps; ++t) offsets_.push_back(t * line_bytes_);
    bytes_ = times(deepest_, line_bytes_);
    return;
  }
  step_ = times(w.stride_w, w.channels);
  line_bytes_ = times(pitch_, step_);
  for (std::size_t y = 0; y < w.kernel_h; ++y) {
    const std::size_t residue = y * w.dilation_h % w.stride_h, depth = y * w.dilation_h / w.stride_h;
    auto found = std::find(residues_.begin(), residues_.end(), residue);
    if (found == residues_.end()) found = residues_.insert(found, residue);
    const auto place = static_cast<std::size_t>(found - residues_.begin());
    for (std::size_t x = 0; x < reading.taps / w.kernel_h; ++x) {
      offsets_.push_back(times(place * deepest_ + depth, line_bytes_) + x * w.dilation_w * w.channels);
    }
  }
  bytes_ = times(times(residues_.size(), deepest_), line_bytes_);
}

std::vector<std::uint32_t> Lines::starts() const {
  std::vector<std::uint32_t> found;
  for (std::size_t line = 0; line < out_lines_; ++line) {
    for (std::size_t column = 0; column < w_.out_width; ++column) {
      found.push_back(static_cast<std::uint32_t>((line * pitch_ + column) * step_));
    }
  }
  return found;
}

void Lines::fill(const std::uint8_t* image, std::size_t first, std::size_t out_lines,
                 std::uint8_t zero, std::uint8_t* to) const {
  const std::size_t lines = deepest_ - (out_lines_ - out_lines);
  const auto line_of = [&](std::size_t j, std::size_t residue) {
    return static_cast<std::ptrdiff_t>((first + j) * w_.stride_h + residue) -
           static_cast<std::ptrdiff_t>(w_.pad_top);
  };
  if (order_ == Order::kLines) {
    for (std::size_t j = 0; j < lines; ++j) fill_group(image, line_of(j, 0), zero, to + j * line_bytes_);
    return;
  }
  for (std::size_t r = 0; r < residues_.size(); ++r) {
    for (std::size_t j = 0; j < lines; ++j) {
      fill_line(image, line_of(j, residues_[r]), zero, to + (r * deepest_ + j) * line_bytes_);
    }
  }
}

void Lines::fill_line(const std::uint8_t* image, std::ptrdiff_t line, std::uint8_t zero,
                      std::uint8_t* to) const {
  if (line < 0 || line >= static_cast<std::ptrdiff_t>(w_.height)) {
    std::memset(to, zero, line_bytes_);
    return;
  }
  const std::size_t before = std::min(w_.pad_left * w_.channels, line_bytes_);
  const std::size_t inside = std::min(w_.width * w_.channels, line_bytes_ - before);
  std::memset(to, zero, before);
  std::memcpy(to + before, image + static_cast<std::size_t>(line) * w_.width * w_.channels, inside);
  std::memset(to + before + inside, zero, line_bytes_ - before - inside);
}

void Lines::fill_group(const std::uint8_t* image, std::ptrdiff_t line, std::uint8_t zero,
                       std::uint8_t* to) const {
  const std::size_t stride = w_.stride_h, size = stride * w_.channels, row = w_.width * w_.channels;
  const auto height = static_cast<std::ptrdiff_t>(w_.height);
  const bool inside = line >= 0 && line + static_cast<std::ptrdiff_t>(stride) <= height;
  const std::size_t begin = std::min(pitch_, divide_up(w_.pad_left, stride));
  const std::size_t whole = std::min(pitch_, (w_.width + w_.pad_left) / stride);
  std::size_t q = 0;
  for (; q < begin; ++q) fill_piece(image, line, q, zero, to + q * step_);
  if (inside && size <= 8) {
    // Eight bytes are copied, of which the next piece overwrites what is too much.
    const std::uint8_t* from = image + static_cast<std::size_t>(line) * row + q * size - w_.pad_left * w_.channels;
    for (std::uint8_t* piece = to + q * step_; q < whole; ++q, from += size) {
      for (std::size_t r = 0; r < stride; ++r, piece += size) std::memcpy(piece, from + r * row, 8);
    }
  }
  for (; q < pitch_; ++q) fill_piece(image, line, q, zero, to + q * step_);
}

void Lines::fill_piece(const std::uint8_t* image, std::ptrdiff_t line, std::size_t q,
                       std::uint8_t zero, std::uint8_t* to) const {
  const auto x = static_cast<std::ptrdiff_t>(q * w_.stride_w) - static_cast<std::ptrdiff_t>(w_.pad_left);
  for (std::size_t i = 0; i < w_.stride_h * w_.stride_w; ++i, to += w_.channels) {
    const std::ptrdiff_t row = line + static_cast<std::ptrdiff_t>(i / w_.stride_w);
    const std::ptrdiff_t column = x + static_cast<std::ptrdiff_t>(i % w_.stride_w);
    if (row < 0 || row >= static_cast<std::ptrdiff_t>(w_.height) || column < 0 ||
        column >= static_cast<std::ptrdiff_t>(w_.width)) {
      std::memset(to, zero, w_.channels);
    } else {
      const std::size_t at = static_cast<std::size_t>(row) * w_.width + static_cast<std::size_t>(column);
      std::memcpy(to, image + at * w_.channels, w_.channels);
    }
  }
}

}  // namespace intact
