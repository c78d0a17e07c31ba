// Convolution and matrix product: a block of rows of the matrix of windows is gathered into the
// thread's own memory (unless it lies in the input as such), multiplied by panel after panel of
// weights, and finished (requantized, looked up, added to a residual) while it is in the cache.

#include <algorithm>
#include <cstring>

#include "finish.hpp"
#include "steps.hpp"

namespace intact {

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

namespace {

constexpr std::size_t kBlockBytes = 192 * 1024;  // of gathered rows: they stay in the L2 cache
constexpr std::size_t kMostBlockRows = 96;
constexpr std::size_t kJobsPerThread = 4;
constexpr std::size_t kMostRows = 32;  // of a block of any instruction set

class Convolution final : public Step {
 public:
  Convolution(const Program& program, Region x, Region y, const Windows& w,
              std::uint8_t x_zero_point, std::shared_ptr<const Packed> weights, Output output,
              Tail tail)
      : x_(x), y_(y), w_(w), zero_(x_zero_point), weights_(std::move(weights)),
        out_(std::move(output)), tail_(std::move(tail)), k_(program.engine().kernels()),
        threads_(program.engine().pool().threads()) {
    w_.check();
    require(k_.rows <= kMostRows, "a block of the instruction set has too many rows");
    require(weights_->kernels == &k_, "weights are packed for another instruction set");
    require(w_.channels % weights_->groups == 0, "channels are no multiple of groups");
    group_channels_ = w_.channels / weights_->groups;
    require(weights_->k == times(times(w_.kernel_h, w_.kernel_w), group_channels_),
            "weights do not fit the kernel and the channels");
    columns_ = times(weights_->groups, weights_->n);
    rows_ = w_.out_pixels();
    program.check(x_);
    program.check(y_);
    require(x_.space == Space::kArena, "a convolution reads the arena alone");
    require(x_.bytes >= times(w_.in_pixels(), w_.channels), "a convolution's input is too small");
    const std::size_t width = out_.real && !out_.real->quantized ? sizeof(float) : 1;
    require(y_.bytes >= times(times(rows_, columns_), width), "a convolution's output is too small");
    require(out_.bias.size() == columns_ && out_.scale.size() == columns_,
            "a convolution's bias or scale has another size than its output");
    check_real(program);
    require(tail_.table.empty() || tail_.table.size() == 256, "a table has not 256 entries");
    require(!out_.real || (tail_.table.empty() && !tail_.other), "floats have no table or sum");
    if (tail_.other) {
      program.check(*tail_.other);
      require(tail_.other->bytes >= times(rows_, columns_), "a summand is too small");
    }
    pad_columns();
    patches_ = {.height = w_.height, .width = w_.width, .pixel = w_.channels,
                .kernel_h = w_.kernel_h, .kernel_w = w_.kernel_w, .dilation_h = w_.dilation_h,
                .dilation_w = w_.dilation_w, .channels = group_channels_};
    direct_ = w_.kernel_h == 1 && w_.kernel_w == 1 && w_.stride_h == 1 && w_.stride_w == 1 &&
              w_.pad_top == 0 && w_.pad_left == 0 && w_.out_height == w_.height &&
              w_.out_width == w_.width;
    padded_k_ = round_up(weights_->k, k_.k_step);
    // An odd number of cache lines, so that rows fall into different sets of the cache.
    stride_ = round_up(padded_k_, 64);
    if (stride_ / 64 % 2 == 0) stride_ += 64;
    plan_jobs();
  }

  std::size_t scratch() const override {
    return 4 * sums_bytes() + block_rows_ * stride_ + kSlack;
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const std::uint8_t>(x_);
    context.engine.pool().run(jobs_, [&](std::size_t job, std::size_t thread) {
      k_.begin();
      const std::size_t rows_job = job % row_jobs_, rest = job / row_jobs_;
      const std::size_t panel_job = rest % panel_jobs_, group = rest / panel_jobs_;
      const std::size_t panels = panels_of_group();
      const std::size_t first = panel_job * panels / panel_jobs_;
      const std::size_t last = (panel_job + 1) * panels / panel_jobs_;
      const std::size_t blocks = (rows_ + block_rows_ - 1) / block_rows_;
      const std::size_t begin = rows_job * blocks / row_jobs_;
      const std::size_t end = (rows_job + 1) * blocks / row_jobs_;
      std::uint8_t* scratch = context.engine.scratch(thread);
      for (std::size_t block = begin; block < end; ++block) {
        const std::size_t row = block * block_rows_;
        const std::size_t count = std::min(block_rows_, rows_ - row);
        multiply(context, x, row, count, group, first, last, scratch);
      }
    });
  }

 private:
  std::size_t panels_of_group() const { return (weights_->n + k_.columns - 1) / k_.columns; }
  std::size_t sums_bytes() const {
    return round_up(k_.rows * k_.columns * sizeof(std::int32_t), 64);
  }

  void check_real(const Program& program) const {
    require(!out_.rows || out_.real, "rows with parameters of their own end in float32");
    if (out_.rows) {
      const std::size_t size = times(w_.images, sizeof(float));
      program.check(out_.rows->scales);
      program.check(out_.rows->zero_points);
      require(out_.rows->scales.bytes >= size && out_.rows->zero_points.bytes >= size,
              "a convolution has too few scales or zero points");
    }
    if (!out_.real) return;
    const RealTail& real = *out_.real;
    require(real.shift.empty() || real.shift.size() == columns_, "a shift has another size");
    require(real.zero_point >= 0 && real.zero_point <= 255, "a zero point is no uint8");
    if (real.other) {
      program.check(*real.other);
      require(real.other->bytes >= times(times(rows_, columns_), sizeof(float)),
              "a summand is too small");
    }
  }

  // Bias and scale of each group padded to whole panels, which kernels read.
  void pad_columns() {
    const std::size_t n = weights_->n;
    padded_n_ = panels_of_group() * k_.columns;
    const auto padded = [&](auto& values) {
      if (values.empty()) return;
      std::decay_t<decltype(values)> wide(times(weights_->groups, padded_n_));
      for (std::size_t c = 0; c < columns_; ++c) wide[c / n * padded_n_ + c % n] = values[c];
      values = std::move(wide);
    };
    padded(out_.bias);
    padded(out_.scale);
    if (out_.real) padded(out_.real->shift);
  }

  void plan_jobs() {
    block_rows_ = std::clamp(kBlockBytes / stride_, k_.rows, std::max(kMostBlockRows, k_.rows));
    block_rows_ = block_rows_ / k_.rows * k_.rows;
    const std::size_t wanted = threads_ == 1 ? 1 : threads_ * kJobsPerThread;
    // Fewer rows a block where that is what makes enough of them.
    while (block_rows_ > 2 * k_.rows && rows_ / block_rows_ < wanted) block_rows_ -= k_.rows;
    const std::size_t blocks = (rows_ + block_rows_ - 1) / block_rows_;
    row_jobs_ = std::min(blocks, wanted);
    // With few rows, threads share the columns.
    panel_jobs_ = 1;
    if (threads_ > 1 && blocks < wanted) {
      row_jobs_ = 1;
      panel_jobs_ = std::min(panels_of_group(), wanted);
      if (rows_ > 4 * k_.rows) panel_jobs_ = std::min(panels_of_group(), threads_);
      block_rows_ = std::clamp(kBlockBytes / stride_, k_.rows, std::max(kMostBlockRows, k_.rows));
      block_rows_ = block_rows_ / k_.rows * k_.rows;
    }
    jobs_ = row_jobs_ * panel_jobs_ * weights_->groups;
  }

  void multiply(const Context& context, const std::uint8_t* x, std::size_t row, std::size_t count,
                std::size_t group, std::size_t first, std::size_t last,
                std::uint8_t* scratch) const {
    auto* sums = reinterpret_cast<std::int32_t*>(scratch);
    std::uint8_t* gathered = scratch + 4 * sums_bytes();
    const std::uint8_t* a = gathered;
    std::size_t stride = stride_;
    // Kernels read whole blocks of rows, which the end of the input may not hold.
    const bool whole = row + round_up(count, k_.rows) <= rows_;
    if (direct_ && whole) {
      a = x + row * w_.channels + group * group_channels_;
      stride = w_.channels;
    } else {
      gather(context, x, row, count, group * group_channels_, gathered);
    }
    const auto* weights =
        reinterpret_cast<const std::int8_t*>(weights_->data.data()) + group * weights_->group_bytes;
    // Sums are finished while the next ones are on their way: two buffers, and after each as much
    // room for floats.
    const std::size_t ahead = 2 * sums_bytes() / sizeof(std::int32_t);
    std::int32_t* const buffers[2] = {sums, sums + ahead};
    struct Block {
      std::size_t row, count, column, width;
    } before{};
    std::size_t done = 0;
    const auto finish_block = [&](const Block& b, std::int32_t* of) {
      if (out_.real) {
        finish_real(context, of, b.row, b.count, group, b.column, b.width);
      } else {
        finish(context, of, b.row, b.count, group, b.column, b.width);
      }
    };
    for (std::size_t panel = first; panel < last; ++panel) {
      const std::size_t column = panel * k_.columns;
      const std::size_t width = std::min(k_.columns, weights_->n - column);
      for (std::size_t r = 0; r < count; r += k_.rows) {
        const std::size_t n = std::min(k_.rows, count - r);
        const std::int8_t* of = weights + column * padded_k_;
        k_.gemm(a + r * stride, stride, n, of, padded_k_, buffers[done % 2]);
        if (done > 0) finish_block(before, buffers[(done - 1) % 2]);
        before = {row + r, n, column, width};
        ++done;
      }
    }
    if (done > 0) finish_block(before, buffers[(done - 1) % 2]);
  }

  void finish(const Context& context, const std::int32_t* sums, std::size_t row, std::size_t count,
              std::size_t group, std::size_t column, std::size_t width) const {
    const std::size_t at = row * columns_ + group * weights_->n + column;
    const std::size_t c = group * padded_n_ + column;
    std::uint8_t* y = context.at<std::uint8_t>(y_) + at;
    const Requantize r{&out_.bias[c], &out_.scale[c], out_.low, out_.high, out_.zero_point};
    k_.requantize(sums, count, width, r, y, columns_);
    if (!tail_.table.empty()) k_.lookup(y, count, width, columns_, tail_.table.data());
    if (tail_.other) {
      const std::uint8_t* other = context.at<const std::uint8_t>(*tail_.other) + at;
      k_.add(y, columns_, other, columns_, count, width, tail_.sum, y, columns_);
    }
  }

  // `sums` has as much room again behind it, for floats on their way to uint8.
  void finish_real(const Context& context, std::int32_t* sums, std::size_t row, std::size_t count,
                   std::size_t group, std::size_t column, std::size_t width) const {
    const RealTail& real = *out_.real;
    const std::size_t at = row * columns_ + group * weights_->n + column;
    const std::size_t c = group * padded_n_ + column;
    float* y = real.quantized ? reinterpret_cast<float*>(sums + k_.rows * k_.columns)
                              : context.at<float>(y_) + at;
    const std::size_t stride = real.quantized ? k_.columns : columns_;
    const float* shift = real.shift.empty() ? nullptr : &real.shift[c];
    if (out_.rows) {
      dequantize_images(context, sums, row, count, c, width, shift, y, stride);
    } else {
      k_.dequantize(sums, count, width, {&out_.bias[c], &out_.scale[c], shift}, y, stride);
    }
    finish_rows(context, k_, real, y_, at, count, width, columns_, y, stride);
  }

  // Rows of one image share scale and zero point; a matrix has an image a row.
  void dequantize_images(const Context& context, const std::int32_t* sums, std::size_t row,
                         std::size_t count, std::size_t c, std::size_t width, const float* shift,
                         float* y, std::size_t stride) const {
    const float* scales = context.at<const float>(out_.rows->scales);
    const auto* points = context.at<const std::int32_t>(out_.rows->zero_points);
    float row_scales[kMostRows];
    std::int32_t row_points[kMostRows];
    const std::size_t pixels = w_.out_height * w_.out_width;
    for (std::size_t r = 0; r < count; ++r) {
      row_scales[r] = scales[(row + r) / pixels];
      row_points[r] = points[(row + r) / pixels];
    }
    const DequantizeRows d{&out_.bias[c], &out_.scale[c], shift, row_scales, row_points};
    k_.dequantize_rows(sums, count, width, d, y, stride);
  }

  std::uint8_t padding(const Context& context, std::size_t image) const {
    if (!out_.rows) return zero_;
    return static_cast<std::uint8_t>(context.at<const std::int32_t>(out_.rows->zero_points)[image]);
  }

  // Rows [row, row + count) of the matrix of windows: [kernel_h][kernel_w][group_channels_] each.
  void gather(const Context& context, const std::uint8_t* x, std::size_t row, std::size_t count,
              std::size_t channel, std::uint8_t* to) const {
    // Counted up: a division for each row would cost as much as the copy.
    std::size_t column = row % w_.out_width, line = row / w_.out_width % w_.out_height;
    std::size_t image = row / w_.out_width / w_.out_height;
    for (std::size_t r = 0; r < count; ++r, to += stride_) {
      const auto top = static_cast<std::ptrdiff_t>(line * w_.stride_h) -
                       static_cast<std::ptrdiff_t>(w_.pad_top);
      const auto left = static_cast<std::ptrdiff_t>(column * w_.stride_w) -
                        static_cast<std::ptrdiff_t>(w_.pad_left);
      k_.gather(patches_, x + image * w_.height * w_.width * w_.channels + channel, top, left,
                padding(context, image), to);
      if (++column == w_.out_width) {
        column = 0;
        if (++line == w_.out_height) {
          line = 0;
          ++image;
        }
      }
    }
  }

  Region x_, y_;
  Windows w_;
  std::uint8_t zero_;
  std::shared_ptr<const Packed> weights_;
  Output out_;
  Tail tail_;
  const Kernels& k_;
  std::size_t threads_;
  Patches patches_;
  std::size_t group_channels_, columns_, rows_, padded_n_;
  bool direct_;
  std::size_t padded_k_, stride_, block_rows_;
  std::size_t row_jobs_, panel_jobs_, jobs_;
};

}  // namespace

std::unique_ptr<Step> make_convolution(const Program& program, Region x, Region y,
                                       const Windows& windows, std::uint8_t x_zero_point,
                                       std::shared_ptr<const Packed> weights, Output output,
                                       Tail tail) {
  return std::make_unique<Convolution>(program, x, y, windows, x_zero_point, std::move(weights),
                                       std::move(output), std::move(tail));
}

}  // namespace intact
