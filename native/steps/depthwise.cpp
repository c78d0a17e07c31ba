// Depthwise convolutions, a few output rows a job: to uint8, or to float32 where each image has scale and
// zero point of its own.

#include <algorithm>
#include <optional>

#include "finish.hpp"
#include "steps.hpp"

namespace intact {
namespace {

// The lines of an image in jobs of at most so many lines, as evenly as threads can share them.
class LineJobs {
 public:
  LineJobs(const Program& program, const Windows& w, std::size_t most)
      : images_(w.images), height_(w.out_height), jobs_((height_ + most - 1) / most) {
    const std::size_t threads = program.engine().pool().threads();
    if (images_ == 1) jobs_ = std::min(height_, round_up(jobs_, threads));
  }

  std::size_t count() const { return images_ * jobs_; }
  std::size_t image(std::size_t job) const { return job / jobs_; }
  std::size_t first(std::size_t job) const { return job % jobs_ * height_ / jobs_; }
  std::size_t lines(std::size_t job) const { return (job % jobs_ + 1) * height_ / jobs_ - first(job); }

 private:
  std::size_t images_, height_, jobs_;
};

std::ptrdiff_t top_of(const Windows& w, std::size_t line) {
  return static_cast<std::ptrdiff_t>(line * w.stride_h) - static_cast<std::ptrdiff_t>(w.pad_top);
}

class DepthwiseConvolution final : public Step, public Lined {
 public:
  DepthwiseConvolution(const Program& program, Region x, Region y, const Windows& w,
                       std::uint8_t x_zero_point, const std::vector<std::int8_t>& weights,
                       const Output& output, Tail tail)
      : x_(x), y_(y), w_(w), tail_(std::move(tail)), k_(program.engine().kernels()) {
    w_.check();
    const std::size_t channels = w_.channels;
    program.check(x_);
    program.check(y_);
    require(x_.space == Space::kArena || x_.space == Space::kLines,
            "a convolution reads the arena alone");
    require(x_.bytes >= times(w_.in_pixels(), channels), "a convolution's input is too small");
    require(y_.bytes >= times(w_.out_pixels(), channels), "a convolution's output is too small");
    require(weights.size() == times(times(w_.kernel_h, w_.kernel_w), channels),
            "weights do not fit the kernel and the channels");
    require(output.bias.size() == channels && output.scale.size() == channels && !output.real,
            "a convolution's bias or scale has another size than its output");
    require(tail_.table.empty() || tail_.table.size() == 256, "a table has not 256 entries");
    if (tail_.other) {
      program.check(*tail_.other);
      require(tail_.other->space != Space::kLines &&
                  tail_.other->bytes >= times(w_.out_pixels(), channels),
              "a summand is too small");
    }
    weights_.resize(packed_depthwise_size(k_, w_.kernel_h, w_.kernel_w, channels));
    pack_depthwise(k_, weights.data(), w_.kernel_h, w_.kernel_w, channels, weights_.data());
    bias_ = in_depthwise_order(k_, output.bias);
    scale_ = in_depthwise_order(k_, output.scale);
    const bool small = std::all_of(output.scale.begin(), output.scale.end(), [](float s) { return s < 1.0f; });
    d_ = {.height = w_.height, .width = w_.width, .channels = channels, .out_width = w_.out_width,
          .kernel_h = w_.kernel_h, .kernel_w = w_.kernel_w, .stride_h = w_.stride_h,
          .stride_w = w_.stride_w, .dilation_h = w_.dilation_h, .dilation_w = w_.dilation_w,
          .pad_top = w_.pad_top, .pad_left = w_.pad_left, .x_zero_point = x_zero_point,
          .weights = weights_.data(),
          .output = {bias_.data(), scale_.data(), output.low, output.high, output.zero_point,
                     small, nullptr},
          .shift = nullptr};
    jobs_.emplace(program, w_, k_.depthwise_lines(d_));
  }

  std::size_t scratch() const override { return depthwise_scratch(k_, d_); }

  const Lined* lined() const override { return this; }
  const Windows& windows() const override { return w_; }
  std::size_t out_channels() const override { return w_.channels; }
  const Region& input() const override { return x_; }
  const Region& output() const override { return y_; }

  void lines(const Context& context, std::size_t thread, std::size_t image, std::size_t first,
             std::size_t count, const std::uint8_t* x, std::uint8_t* y) const override {
    const std::size_t most = k_.depthwise_lines(d_), end = first + count;
    for (; first < end; first += most) {
      compute(context, thread, image, first, std::min(most, end - first), x, y);
    }
  }

  void run(const Context& context) const override {
    const LineJobs& jobs = *jobs_;
    context.engine.pool().run(jobs.count(), [&](std::size_t job, std::size_t thread) {
      compute(context, thread, jobs.image(job), jobs.first(job), jobs.lines(job),
              context.at<const std::uint8_t>(x_), context.at<std::uint8_t>(y_));
    });
  }

 private:
  void compute(const Context& context, std::size_t thread, std::size_t image, std::size_t first,
               std::size_t count, const std::uint8_t* x, std::uint8_t* y) const {
    const std::size_t at = (image * w_.out_height + first) * w_.out_width * w_.channels;
    k_.depthwise(d_, x + image * w_.height * w_.width * w_.channels, top_of(w_, first), count, y + at,
                 context.engine.scratch(thread));
    const std::size_t size = count * w_.out_width * w_.channels;
    if (!tail_.table.empty()) k_.lookup(y + at, 1, size, size, tail_.table.data());
    if (tail_.other) {
      const auto* other = context.at<const std::uint8_t>(*tail_.other) + at;
      k_.add(y + at, size, other, size, 1, size, tail_.sum, y + at, size);
    }
  }

  Region x_, y_;
  Windows w_;
  Tail tail_;
  const Kernels& k_;
  std::vector<std::int8_t> weights_;
  std::vector<std::int32_t> bias_;
  std::vector<float> scale_;
  Depthwise d_;
  std::optional<LineJobs> jobs_;
};

// Of images that were quantized one by one; ends in float32, or in uint8 whose parameters are found by
// computing the sums twice.
class RealDepthwise final : public Step {
 public:
  RealDepthwise(const Program& program, Region x, Region y, const Windows& w,
                const std::vector<std::int8_t>& weights, Output output)
      : x_(x), y_(y), w_(w), out_(std::move(output)), k_(program.engine().kernels()) {
    w_.check();
    const std::size_t channels = w_.channels, size = times(w_.out_pixels(), channels);
    program.check(x_);
    program.check(y_);
    require(x_.space == Space::kArena, "a convolution reads the arena alone");
    require(x_.bytes >= times(w_.in_pixels(), channels), "a convolution's input is too small");
    require(y_.bytes >= times(size, out_.found ? 1 : sizeof(float)), "a convolution's output is too small");
    require(weights.size() == times(times(w_.kernel_h, w_.kernel_w), channels),
            "weights do not fit the kernel and the channels");
    require(out_.bias.size() == channels && out_.scale.size() == channels && out_.real &&
                out_.rows && !out_.real->quantized,
            "a convolution's bias or scale has another size than its output");
    require(out_.real->shift.empty() || out_.real->shift.size() == channels,
            "a shift has another size");
    out_.rows->check(program, w_.images);
    if (out_.extremes) {
      out_.extremes->check(program, w_.images);
      require(out_.extremes->images == w_.images, "there are extremes of other images");
    }
    if (out_.of_lines) {
      const std::size_t found = times(times(times(w_.images, w_.out_height), channels), sizeof(float));
      for (const Region& region : {out_.of_lines->sums, out_.of_lines->most, out_.of_lines->negatives}) {
        program.check(region);
        require(region.bytes >= found, "there is too little room for what is found of lines");
      }
      require(!out_.found && !out_.extremes, "a depthwise convolution finds two things");
    }
    if (out_.real->other) {
      program.check(*out_.real->other);
      require(out_.real->other->bytes >= times(size, sizeof(float)), "a summand is too small");
    }
    if (out_.found) {
      out_.found->check(program, w_.images);
      require(out_.extremes && !out_.real->other &&
                  movement_of(out_.real->function).course != Course::kOther,
              "a depthwise convolution whose parameters are found has another end");
    }
    weights_.resize(packed_depthwise_size(k_, w_.kernel_h, w_.kernel_w, channels));
    pack_depthwise(k_, weights.data(), w_.kernel_h, w_.kernel_w, channels, weights_.data());
    padded_ = round_up(channels, k_.lanes);
    bias_ = in_depthwise_order(k_, out_.bias);
    scale_ = in_depthwise_order(k_, out_.scale);
    shift_ = in_depthwise_order(k_, out_.real->shift);
    // Kernels read whole vectors of these.
    out_.bias.resize(padded_);
    out_.scale.resize(padded_);
    if (!shift_.empty()) out_.real->shift.resize(padded_);
    jobs_.emplace(program, w_, k_.depthwise_lines(shape(0)));
    bounds_at_ = round_up(depthwise_scratch(k_, shape(0)), 64);
    turns_at_ = bounds_at_ + times(kMostBounds * sizeof(std::int32_t), padded_);
  }

  // Where functions turn is found once, and lies in the first thread's.
  std::size_t scratch() const override {
    return turns_at_ + times(times(w_.images, padded_), sizeof(std::int32_t));
  }

  void run(const Context& context) const override {
    if (out_.extremes) out_.extremes->clear(context);
    if (!out_.found) {
      each_job(context, [&](const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                            std::size_t lines, Finish& f, std::size_t image, std::size_t thread) {
        if (out_.extremes) f.extremes = out_.extremes->of(context, thread, image);
        k_.depthwise_real(d, x, top, lines, f, context.engine.scratch(thread));
      });
      return;
    }
    find(context);
    out_.extremes->parameters(context, *out_.found);
    each_job(context, [&](const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                          std::size_t lines, Finish& f, std::size_t image, std::size_t thread) {
      f.q_scale = context.at<const float>(out_.found->scales)[image];
      f.q_zero_point = context.at<const std::int32_t>(out_.found->zero_points)[image];
      f.bounded = true;
      k_.depthwise_real(d, x, top, lines, f, context.engine.scratch(thread));
    });
  }

 private:
  static constexpr std::size_t kMostBounds = 4;

  // The extremes of the floats, by those of the sums.
  void find(const Context& context) const {
    const Movement movement = movement_of(out_.real->function);
    const bool turning = movement.course == Course::kTurning;
    auto* turns = reinterpret_cast<std::int32_t*>(context.engine.scratch(0) + turns_at_);
    for (std::size_t image = 0; turning && image < w_.images; ++image) {
      Finish f = of_image(context, image);
      f.bias = bias_.data();
      f.scale = scale_.data();
      f.shift = shift_.empty() ? nullptr : shift_.data();
      k_.turns(f, padded_, movement.turn, turns + image * padded_);
    }
    each_job(context, [&](const Depthwise& d, const std::uint8_t* x, std::ptrdiff_t top,
                          std::size_t lines, Finish& f, std::size_t image, std::size_t thread) {
      f.extremes = out_.extremes->of(context, thread, image);
      std::uint8_t* scratch = context.engine.scratch(thread);
      auto* bounds = reinterpret_cast<std::int32_t*>(scratch + bounds_at_);
      k_.depthwise_bounds(d, x, top, lines, turning ? turns + image * padded_ : nullptr, bounds, scratch);
      f.q = nullptr;
      k_.finish(bounds, padded_, turning ? 4 : 2, w_.channels, f);
    });
  }

  Finish of_image(const Context& context, std::size_t image) const {
    Finish f = finish_of(context, out_, y_, 0, 0, w_.channels);
    f.scales = context.at<const float>(out_.rows->scales) + image;
    f.zero_points = context.at<const std::int32_t>(out_.rows->zero_points) + image;
    f.one_image = true;
    return f;
  }

  // use(shape, image's values, top, lines, finish, image, thread) for the lines of each job.
  template <class Use>
  void each_job(const Context& context, const Use& use) const {
    const auto* x = context.at<const std::uint8_t>(x_);
    const LineJobs& jobs = *jobs_;
    context.engine.pool().run(jobs.count(), [&](std::size_t job, std::size_t thread) {
      const std::size_t image = jobs.image(job), first = jobs.first(job);
      const std::size_t at = (image * w_.out_height + first) * w_.out_width * w_.channels;
      Finish f = of_image(context, image);
      if (out_.found) {
        f.y = nullptr;
        f.q = context.at<std::uint8_t>(y_) + at;
      } else {
        f.y += at;
        if (f.other) f.other += at;
      }
      if (out_.of_lines) {
        const LineColumns& of = *out_.of_lines;
        f.of_columns = {context.at<float>(of.sums), context.at<float>(of.most), context.at<float>(of.negatives)};
        f.of_columns.skip((image * w_.out_height + first) * w_.channels);
      }
      use(shape(static_cast<std::uint8_t>(f.zero_points[0])),
          x + image * w_.height * w_.width * w_.channels, top_of(w_, first), jobs.lines(job), f, image,
          thread);
    });
  }

  Depthwise shape(std::uint8_t x_zero_point) const {
    return {.height = w_.height, .width = w_.width, .channels = w_.channels,
            .out_width = w_.out_width, .kernel_h = w_.kernel_h, .kernel_w = w_.kernel_w,
            .stride_h = w_.stride_h, .stride_w = w_.stride_w, .dilation_h = w_.dilation_h,
            .dilation_w = w_.dilation_w, .pad_top = w_.pad_top, .pad_left = w_.pad_left,
            .x_zero_point = x_zero_point, .weights = weights_.data(),
            .output = {.bias = bias_.data(), .scale = scale_.data(), .low = 0, .high = 0, .zero_point = 0,
                       .small = false, .table = nullptr},
            .shift = shift_.empty() ? nullptr : shift_.data()};
  }

  Region x_, y_;
  Windows w_;
  Output out_;
  const Kernels& k_;
  std::vector<std::int8_t> weights_;
  // In the order of depthwise_order, for `turns`.
  std::vector<std::int32_t> bias_;
  std::vector<float> scale_, shift_;
  std::size_t padded_, bounds_at_, turns_at_;
  std::optional<LineJobs> jobs_;
};

}  // namespace

std::unique_ptr<Step> make_depthwise(const Program& program, Region x, Region y,
                                     const Windows& windows, std::uint8_t x_zero_point,
                                     const std::vector<std::int8_t>& weights, const Output& output,
                                     Tail tail) {
  return std::make_unique<DepthwiseConvolution>(program, x, y, windows, x_zero_point, weights,
                                                output, std::move(tail));
}

std::unique_ptr<Step> make_real_depthwise(const Program& program, Region x, Region y,
                                          const Windows& windows,
                                          const std::vector<std::int8_t>& weights, Output output) {
  return std::make_unique<RealDepthwise>(program, x, y, windows, weights, std::move(output));
}

}  // namespace intact
