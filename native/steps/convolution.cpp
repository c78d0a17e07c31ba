// Convolution and matrix product: a block of rows of the matrix of windows is made readable in the
// thread's own memory (unless it lies in the input as such), multiplied by panel after panel of
// weights, and finished (requantized, looked up, added to a residual) in registers, or while the next
// one is on its way.

#include <algorithm>
#include <cstring>
#include <limits>

#include "float_ends.hpp"
#include "plan.hpp"
#include "steps.hpp"
#include "winograd.hpp"

namespace intact {

namespace {

constexpr std::size_t kNoOffset = 0;
constexpr std::size_t kFewestPartRows = 4;  // that are finished together, between two products
constexpr std::size_t kWeightsAhead = 128 * 1024;  // from which on they are fetched in time
constexpr std::size_t kFewestForGelu = 128;  // values of K, from which on it is finished beside the next sums
// Blocks that are finished at once where a product does not hide their end: more of few values, whose sums are soon
// there.
constexpr std::size_t kBlocksFinished = 8, kBlocksOfFew = 16, kFewValues = 64;
constexpr std::size_t kMostLineBytes = 8 * 1024 * 1024;  // that the outputs of one line read

class Convolution final : public Step, public Lined {
 public:
  Convolution(const Program& program, Region x, Region y, const Windows& w,
              std::uint8_t x_zero_point, std::shared_ptr<const Packed> weights, Output output,
              Tail tail)
      : x_(x), y_(y), w_(w), zero_(x_zero_point), weights_(std::move(weights)),
        out_(std::move(output)), tail_(std::move(tail)), k_(program.engine().kernels()) {
    w_.check();
    require(k_.columns <= kMostColumns, "a block of the instruction set is too large");
    require(weights_->kernels == &k_, "weights are packed for another instruction set");
    require(w_.channels % weights_->groups == 0, "channels are no multiple of groups");
    group_channels_ = w_.channels / weights_->groups;
    const Kernel &of = weights_->kernel, kernel = w_.kernel();
    require(weights_->k == times(times(kernel.h, kernel.w), group_channels_) && of.h == kernel.h &&
                of.w == kernel.w && of.stride_h == kernel.stride_h && of.stride_w == kernel.stride_w &&
                of.dilation_h == kernel.dilation_h && of.dilation_w == kernel.dilation_w,
            "weights do not fit the kernel and the channels");
    columns_ = times(weights_->groups, weights_->n);
    rows_ = w_.out_pixels();
    program.check(x_);
    program.check(y_);
    require(x_.space == Space::kArena || x_.space == Space::kLines,
            "a convolution reads the arena alone");
    require(x_.bytes >= times(w_.in_pixels(), w_.channels), "a convolution's input is too small");
    const bool floats = out_.real && !out_.real->quantized && !out_.found;
    const std::size_t width = floats ? sizeof(float) : 1;
    row_bytes_ = times(columns_, width);
    if (out_.within) {
      row_bytes_ = (*out_.within)[0];
      first_column_ = (*out_.within)[1];
      require(!out_.real && !tail_.other && y_.space != Space::kLines,
              "only uint8 without a summand is written into wider rows");
      require(first_column_ <= row_bytes_ && columns_ <= row_bytes_ - first_column_,
              "columns do not fit the row that they belong to");
    }
    require(y_.bytes >= times(rows_, row_bytes_), "a convolution's output is too small");
    require(out_.bias.size() == columns_ && out_.scale.size() == columns_,
            "a convolution's bias or scale has another size than its output");
    check_real(program);
    require(tail_.table.empty() || tail_.table.size() == 256, "a table has not 256 entries");
    require(!out_.real || (tail_.table.empty() && !tail_.other), "floats have no table or sum");
    if (tail_.other) {
      program.check(*tail_.other);
      require(tail_.other->space != Space::kLines && tail_.other->bytes >= times(rows_, columns_),
              "a summand is too small");
    }
    fused_sum_ = tail_.other && tail_.table.empty() && tail_.sum.a_zero_point == out_.zero_point;
    small_ = std::all_of(out_.scale.begin(), out_.scale.end(), [](float s) { return s < 1.0f; });
    pad_columns();
    patches_ = {.height = w_.height, .width = w_.width, .pixel = w_.channels,
                .kernel_h = w_.kernel_h, .kernel_w = w_.kernel_w, .dilation_h = w_.dilation_h,
                .dilation_w = w_.dilation_w, .channels = group_channels_};
    const bool moves = w_.stride_h != 1 || w_.stride_w != 1 || w_.pad_top != 0 || w_.pad_left != 0;
    direct_ = kernel.pointwise() && !moves && w_.out_height == w_.height && w_.out_width == w_.width;
    if (!direct_ && k_.product && kernel.pointwise()) direct_ = find_starts();
    sliding_ = slides();
    // Rows with parameters of their own end in memory.
    const bool own_rows = out_.rows && w_.out_height * w_.out_width == 1;
    const RealTail* real = out_.real ? &*out_.real : nullptr;
    fused_ = k_.product && (real ? !own_rows && ends_in_registers(real->function, real->other.has_value())
                                 : !tail_.other || fused_sum_);
    padded_k_ = weights_->reading.taps * weights_->reading.k;
    const bool gelu = k_.product_gelu && real && FloatEnds::is_gelu(*real) && padded_k_ >= kFewestForGelu &&
                      weights_->n % k_.columns == 0 && !out_.rows && !out_.extremes;
    fused_ = fused_ || gelu;
    if (real) floats_.emplace(k_, out_, y_, w_, columns_, gelu);
    // An odd number of cache lines, so that rows fall into different sets of the cache.
    stride_ = round_up(padded_k_, 64);
    if (stride_ / 64 % 2 == 0) stride_ += 64;
    // As many parts as there are steps of a product to hide them in.
    const std::size_t steps = padded_k_ / k_.k_step;
    part_rows_ = k_.product ? blocks_at_once() * k_.rows
                            : std::max(kFewestPartRows, round_up((k_.rows + steps - 1) / steps, kFewestPartRows));
    const Products products{k_, *weights_, program.engine().pool().threads()};
    if (sliding_) {
      plan_ = plan_lines(products, w_);
      lines_ = Lines(w_, weights_->reading, plan_.block_lines);
      if (k_.product) starts_ = lines_.starts();
    } else {
      plan_ = plan_rows(products, rows_, stride_, direct_);
    }
    tiled_ = Tiled::of(products, w_);
  }

  std::size_t scratch() const override {
    return std::max(tiled_ ? tiled_->scratch() : 0, scratch_of_rows());
  }

  std::size_t scratch_of_rows() const {
    const std::size_t sums = 2 * sums_bytes();
    // Kernels read whole blocks of rows.
    if (sliding_) return sums + lines_.bytes() + k_.rows * lines_.step() + kSlack;
    return sums + (direct_ ? k_.rows : plan_.block_rows) * stride_ + kSlack;
  }

  const char* way() const override { return tiled_ ? " (Winograd)" : ""; }
  const Lined* lined() const override { return out_.real ? nullptr : this; }
  const Windows& windows() const override { return w_; }
  std::size_t out_channels() const override { return columns_; }
  const Region& input() const override { return x_; }
  const Region& output() const override { return y_; }

  void lines(const Context& context, std::size_t thread, std::size_t image, std::size_t first,
             std::size_t count, const std::uint8_t* x, std::uint8_t* y) const override {
    k_.begin();
    const std::size_t panels = panels_of(k_, weights_->n), end = first + count;
    for (std::size_t group = 0; group < weights_->groups; ++group) {
      const Work work{&context, x, y, thread, group, 0, panels, true};
      if (sliding_) {
        for (std::size_t line = first; line < end; line += plan_.block_lines) {
          slide(work, image, line, std::min(plan_.block_lines, end - line));
        }
        continue;
      }
      const std::size_t row = (image * w_.out_height + first) * w_.out_width;
      multiply_all(work, row, row + count * w_.out_width);
    }
  }

  void run(const Context& context) const override {
    if (out_.extremes) out_.extremes->clear(context);
    run_jobs(context, !out_.found);
    if (!out_.found) return;
    out_.extremes->parameters(context, *out_.found);
    run_jobs(context, true);
  }

 private:
  // written: whether more than the extremes is wanted.
  void run_jobs(const Context& context, bool written) const {
    if (tiled_) return run_tiles(context, written);
    const std::size_t row_jobs = plan_.row_jobs, panel_jobs = plan_.panel_jobs;
    const std::size_t panels = panels_of(k_, weights_->n), jobs = row_jobs * panel_jobs * weights_->groups;
    context.engine.pool().run(jobs, [&](std::size_t job, std::size_t thread) {
      k_.begin();
      const std::size_t row_job = job % row_jobs, rest = job / row_jobs, panel_job = rest % panel_jobs;
      const Work work{&context, context.at<const std::uint8_t>(x_), context.at<std::uint8_t>(y_), thread,
                      rest / panel_jobs, panel_job * panels / panel_jobs,
                      (panel_job + 1) * panels / panel_jobs, written};
      const std::size_t first = row_job * plan_.units / row_jobs;
      const std::size_t end = (row_job + 1) * plan_.units / row_jobs;
      if (sliding_) {
        const std::size_t blocks = plan_.units / w_.images;  // of an image
        for (std::size_t block = first; block < end; ++block) {
          const std::size_t line = block % blocks * plan_.block_lines;
          slide(work, block / blocks, line, std::min(plan_.block_lines, w_.out_height - line));
        }
      } else {
        multiply_all(work, first * plan_.unit_rows, std::min(rows_, end * plan_.unit_rows));
      }
    });
  }

  void run_tiles(const Context& context, bool written) const {
    const std::size_t jobs = tiled_->jobs();
    context.engine.pool().run(jobs * weights_->groups, [&](std::size_t job, std::size_t thread) {
      const std::size_t group = job / jobs;
      const Work work{&context, context.at<const std::uint8_t>(x_), context.at<std::uint8_t>(y_), thread,
                      group, 0, 0, written};
      const auto* weights = reinterpret_cast<const std::int8_t*>(weights_->data.data());
      const auto zero = [&](std::size_t image) { return padding(context, image); };
      tiled_->run({work.x + group * group_channels_, weights + group * weights_->group_bytes, zero}, job % jobs,
                  context.engine.scratch(thread),
                  [&](const Panel& panel, std::int32_t* sums, std::size_t row, std::size_t count) {
                    const std::size_t width = std::min(panel.columns, weights_->n - panel.first);
                    finish({this, &work, sums, 0, 0, 0, count, panel, width}, 0, row, count);
                  });
    });
  }

  // Of a pointwise convolution with a stride, whose windows lie in the image as they are.
  bool find_starts() {
    if (w_.pad_top != 0 || w_.pad_left != 0 || (w_.out_height - 1) * w_.stride_h >= w_.height ||
        (w_.out_width - 1) * w_.stride_w >= w_.width ||
        w_.in_pixels() * w_.channels > std::numeric_limits<std::uint32_t>::max()) {
      return false;
    }
    for (std::size_t line = 0; line < w_.images * w_.out_height; ++line) {
      const std::size_t image = line / w_.out_height, y = line % w_.out_height * w_.stride_h;
      for (std::size_t x = 0; x < w_.out_width; ++x) {
        const std::size_t pixel = (image * w_.height + y) * w_.width + x * w_.stride_w;
        starts_.push_back(static_cast<std::uint32_t>(pixel * w_.channels));
      }
    }
    return true;
  }

  std::size_t blocks_at_once() const {
    return !k_.product ? 1 : padded_k_ <= kFewValues ? kBlocksOfFew : kBlocksFinished;
  }

  std::size_t sums_bytes() const {
    return round_up(blocks_at_once() * k_.rows * k_.columns * sizeof(std::int32_t), 64);
  }

  void check_real(const Program& program) const {
    require(!out_.rows || out_.real, "rows with parameters of their own end in float32");
    if (out_.rows) out_.rows->check(program, w_.images);
    require(!out_.extremes || (out_.real && !out_.real->quantized), "only floats have extremes");
    require(!out_.found || out_.extremes, "parameters are found by extremes");
    if (out_.extremes) {
      out_.extremes->check(program, w_.images);
      require(out_.extremes->images == w_.images, "there are extremes of other images");
    }
    if (out_.found) out_.found->check(program, w_.images);
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
    padded_n_ = round_up(weights_->n, k_.column_step);
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

  // Windows that reach far (large dilations) are gathered: the weights of kTaps lie the same way.
  bool slides() const {
    const Reading& reading = weights_->reading;
    if (reading.order != Order::kTaps) return reading.order == Order::kLines;
    return Lines(w_, reading, 1).bytes() <= kMostLineBytes;
  }

  // What one job does: panels [first, last) of a group.
  struct Work {
    const Context* context;
    const std::uint8_t* x;
    std::uint8_t* y;
    std::size_t thread, group, first, last;
    bool written;
  };

  // Rows of the matrix of windows that lie a fixed distance apart, or where `starts` says.
  struct Rows {
    const std::uint8_t* a;
    std::size_t stride;
    const std::uint32_t* starts;
    std::size_t count;
  };

  // One block of sums, to be finished part by part. Of rows that come from lines of an image (pitch is
  // not 0), those beyond the width of the output are wasted.
  struct Block {
    const Convolution* step;
    const Work* work;
    std::int32_t* sums;
    std::size_t base, pitch, row, count;
    Panel panel;
    std::size_t width;

    std::size_t parts() const { return divide_up(count, step->part_rows_); }
    static void finish(const void* state, std::size_t part) {
      const auto& block = *static_cast<const Block*>(state);
      const std::size_t rows = block.step->part_rows_, first = part * rows;
      block.step->finish_part(block, first, std::min(rows, block.count - first));
    }
  };

  // Rows [row, end) of the matrix of windows.
  void multiply_all(const Work& work, std::size_t row, std::size_t end) const {
    for (; row < end; row += plan_.block_rows) {
      multiply_rows(work, row, std::min(plan_.block_rows, end - row));
    }
  }

  void multiply_rows(const Work& work, std::size_t row, std::size_t count) const {
    const std::uint8_t* x = work.x;
    std::uint8_t* gathered = work.context->engine.scratch(work.thread) + 2 * sums_bytes();
    // Without `product` whole blocks of rows are read, which the end of the input does not hold.
    const std::size_t whole = k_.product ? rows_ : rows_ / k_.rows * k_.rows;
    const std::size_t direct = direct_ ? std::min(count, whole - row) : 0;
    if (direct < count) {
      gather(*work.context, x, row + direct, count - direct, work.group * group_channels_, gathered);
    }
    const std::uint8_t* of_group = x + work.group * group_channels_;
    const bool strided = direct_ && !starts_.empty();
    const Rows rows[2] = {strided ? Rows{of_group, 0, starts_.data() + row, direct}
                                  : Rows{of_group + row * w_.channels, w_.channels, nullptr, direct},
                          {gathered, stride_, nullptr, count - direct}};
    multiply(work, rows, row, 0, &kNoOffset, 1, padded_k_);
  }

  // At most plan_.block_lines lines of an image.
  void slide(const Work& work, std::size_t image, std::size_t first, std::size_t count) const {
    const std::uint8_t* x = work.x + image * w_.height * w_.width * w_.channels;
    std::uint8_t* lines = work.context->engine.scratch(work.thread) + 2 * sums_bytes();
    lines_.fill(x, first, count, padding(*work.context, image), lines);
    lines += work.group * group_channels_;
    const Rows rows[2] = {
        k_.product ? Rows{lines, 0, starts_.data(), count * w_.out_width}
                   : Rows{lines, lines_.step(), nullptr, lines_.rows(count)},
        {nullptr, 0, nullptr, 0}};
    const std::size_t base = (image * w_.out_height + first) * w_.out_width;
    const Reading& reading = weights_->reading;
    multiply(work, rows, base, k_.product ? 0 : lines_.pitch(), lines_.offsets().data(), reading.taps,
             reading.k);
  }

  void multiply(const Work& work, const Rows (&rows)[2], std::size_t base, std::size_t pitch,
                const std::size_t* offsets, std::size_t taps, std::size_t k) const {
    std::uint8_t* scratch = work.context->engine.scratch(work.thread);
    const auto* weights = reinterpret_cast<const std::int8_t*>(weights_->data.data()) +
                          work.group * weights_->group_bytes;
    // Sums are finished while the next ones are on their way: two buffers.
    Block blocks[2];
    for (std::size_t b = 0; b < 2; ++b) {
      blocks[b] = {this, &work, reinterpret_cast<std::int32_t*>(scratch + b * sums_bytes()), base, pitch,
                   0, 0, {}, 0};
    }
    std::size_t done = 0;
    for (std::size_t p = work.first; p < work.last; ++p) {
      const Panel panel = panel_of(k_, weights_->n, p);
      const std::size_t width = std::min(panel.columns, weights_->n - panel.first);
      const std::size_t block_rows = blocks_at_once() * k_.block_rows(panel.columns);
      // The next panel comes from the L3 cache while the rows are multiplied by this one: a share of it
      // during each product, or all during the first that are finished in registers.
      const std::size_t bytes = padded_k_ * panel.columns;
      const std::size_t products = (rows[0].count + rows[1].count + block_rows - 1) / block_rows;
      const bool ahead = weights_->group_bytes > kWeightsAhead && p + 1 < work.last;
      const std::size_t share = !ahead ? 0 : fused_ ? bytes : bytes / products;
      Multiplication m{.a = nullptr, .stride = 0, .starts = nullptr, .count = 0, .offsets = offsets,
                       .taps = taps, .k = k, .panel = weights + padded_k_ * panel.first,
                       .columns = panel.columns, .sums = nullptr, .beside = {}};
      m.next = m.panel + bytes;
      m.next_bytes = share;
      std::size_t row = 0;
      for (const Rows& part : rows) {
        if (part.count == 0) continue;
        m.stride = part.stride;
        if (fused_) {
          m.a = part.a;
          m.starts = part.starts;
          m.count = part.count;
          if (floats_) {
            floats_->multiply(place(work, panel, width, base + row), m);
          } else {
            k_.product(m, bytes_of(work, panel, width, base + row));
          }
        } else {
          for (std::size_t r = 0; r < part.count; r += block_rows, m.next += share) {
            Block &block = blocks[done % 2], &before = blocks[(done + 1) % 2];
            m.a = part.a + r * part.stride;
            m.starts = part.starts ? part.starts + r : nullptr;
            m.count = std::min(block_rows, part.count - r);
            m.sums = block.sums;
            m.beside = {&Block::finish, &before, before.parts()};
            k_.gemm(m);
            block.row = row + r;
            block.count = m.count;
            block.panel = panel;
            block.width = width;
            ++done;
          }
        }
        row += part.count;
      }
    }
    const Block& last = blocks[(done + 1) % 2];
    for (std::size_t part = 0; part < last.parts(); ++part) Block::finish(&last, part);
  }

  EndPlace place(const Work& work, const Panel& panel, std::size_t width, std::size_t row) const {
    return {*work.context, work.thread, work.written, row, work.group * weights_->n + panel.first,
            work.group * padded_n_ + panel.first, width};
  }

  // What rows from number `row` of the output on become in a panel's columns.
  Bytes bytes_of(const Work& work, const Panel& panel, std::size_t width, std::size_t row) const {
    const Context& context = *work.context;
    const std::size_t c = work.group * padded_n_ + panel.first;
    const std::size_t at = row * columns_ + work.group * weights_->n + panel.first;
    return {.requantize = {&out_.bias[c], &out_.scale[c], out_.low, out_.high, out_.zero_point, small_,
                           tail_.table.empty() ? nullptr : tail_.table.data()},
            .sum = tail_.sum,
            .other = tail_.other ? context.at<const std::uint8_t>(*tail_.other) + at : nullptr,
            .y = work.y + row * row_bytes_ + first_column_ + work.group * weights_->n + panel.first,
            .width = width,
            .stride = row_bytes_};
  }

  // Rows [first, first + count) of a block, without the wasted ones.
  void finish_part(const Block& block, std::size_t first, std::size_t count) const {
    if (block.pitch == 0) return finish(block, first, block.base + block.row + first, count);
    const std::size_t end = block.row + first + count;
    for (std::size_t row = block.row + first; row < end;) {
      const std::size_t line = row / block.pitch, column = row % block.pitch;
      const std::size_t next = std::min(end, (line + 1) * block.pitch);
      if (column < w_.out_width) {
        const std::size_t n = std::min(next - row, w_.out_width - column);
        finish(block, row - block.row, block.base + line * w_.out_width + column, n);
      }
      row = next;
    }
  }

  // `count` rows of a block from `first` on, which are those of the output from `row` on.
  void finish(const Block& block, std::size_t first, std::size_t row, std::size_t count) const {
    const std::size_t panel = block.panel.columns;
    const std::int32_t* sums = block.sums + first * panel;
    if (floats_) return floats_->finish(place(*block.work, block.panel, block.width, row), sums, panel, count);
    const Bytes b = bytes_of(*block.work, block.panel, block.width, row);
    if (fused_sum_) {
      k_.requantize_add(sums, panel, count, b.width, b.requantize, b.sum, b.other, b.y, b.stride);
      return;
    }
    k_.requantize(sums, panel, count, b.width, b.requantize, b.y, b.stride);
    if (b.other) k_.add(b.y, b.stride, b.other, b.stride, count, b.width, b.sum, b.y, b.stride);
  }

  std::uint8_t padding(const Context& context, std::size_t image) const {
    if (!out_.rows) return zero_;
    return static_cast<std::uint8_t>(context.at<const std::int32_t>(out_.rows->zero_points)[image]);
  }

  // Rows [row, row + count) of the matrix of windows: [kernel_h][kernel_w][group_channels_] each.
  void gather(const Context& context, const std::uint8_t* x, std::size_t row, std::size_t count,
              std::size_t channel, std::uint8_t* to) const {
    while (count > 0) {
      const std::size_t column = row % w_.out_width, line = row / w_.out_width % w_.out_height;
      const std::size_t image = row / w_.out_width / w_.out_height;
      const std::size_t n = std::min(count, w_.out_width - column);
      const auto top = static_cast<std::ptrdiff_t>(line * w_.stride_h) -
                       static_cast<std::ptrdiff_t>(w_.pad_top);
      const auto left = static_cast<std::ptrdiff_t>(column * w_.stride_w) -
                        static_cast<std::ptrdiff_t>(w_.pad_left);
      k_.gather(patches_, x + image * w_.height * w_.width * w_.channels + channel, top, left,
                w_.stride_w, n, padding(context, image), to, stride_);
      row += n;
      count -= n;
      to += n * stride_;
    }
  }

  Region x_, y_;
  Windows w_;
  std::uint8_t zero_;
  std::shared_ptr<const Packed> weights_;
  Output out_;
  Tail tail_;
  const Kernels& k_;
  Patches patches_;
  std::size_t group_channels_, columns_, rows_, padded_n_;
  std::size_t row_bytes_, first_column_ = 0;  // of the output
  bool direct_, sliding_, fused_sum_, small_, fused_;
  std::size_t padded_k_, stride_, part_rows_;
  Plan plan_;
  std::optional<Tiled> tiled_;
  std::optional<FloatEnds> floats_;
  Lines lines_;
  std::vector<std::uint32_t> starts_;
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
