// Convolutions one after another, a few lines of an image at a time, so that what lies between them stays in
// a thread's cache: the inverted residual blocks of MobileNet, whose expanded tensor is their largest.

#include <algorithm>
#include <array>
#include <cstring>

#include "steps.hpp"

namespace intact {
namespace {

constexpr std::size_t kMostStages = 16;
constexpr std::size_t kBandBytes = 64 * 1024;  // of what lies between two stages, at a time
constexpr std::size_t kRunOn = 4;  // times as many lines as are new each time, before any is moved
constexpr std::size_t kAlignment = 64;

class Chain final : public Step {
 public:
  Chain(const Program& program, std::vector<std::unique_ptr<Step>> stages)
      : steps_(std::move(stages)), threads_(program.engine().pool().threads()) {
    require(steps_.size() > 1 && steps_.size() <= kMostStages, "a chain has no such number of stages");
    for (const auto& step : steps_) {
      require(step->lined() != nullptr, "a stage of a chain computes no lines");
      stages_.push_back(step->lined());
      scratch_ = std::max(scratch_, step->scratch());
    }
    require(stages_.front()->input().space != Space::kLines && stages_.back()->output().space != Space::kLines,
            "a chain begins or ends in itself");
    for (std::size_t i = 0; i + 1 < stages_.size(); ++i) {
      const Windows &from = stages_[i]->windows(), &to = stages_[i + 1]->windows();
      require(stages_[i]->output().space == Space::kLines && stages_[i + 1]->input().space == Space::kLines,
              "a stage of a chain reads or writes something else");
      require(from.images == to.images && from.out_height == to.height && from.out_width == to.width &&
                  stages_[i]->out_channels() == to.channels,
              "a stage of a chain reads something else than the one before writes");
    }
    plan(program.engine().kernels());
  }

  std::size_t scratch() const override { return scratch_; }

  void run(const Context& context) const override {
    const Windows& last = stages_.back()->windows();
    // Each job computes the lines around its own again.
    const std::size_t jobs = last.images % threads_ == 0 ? 1 : std::min(threads_, last.out_height);
    context.engine.pool().run(last.images * jobs, [&](std::size_t job, std::size_t thread) {
      const std::size_t part = job % jobs;
      Job(*this, context, thread, job / jobs)
          .run(part * last.out_height / jobs, (part + 1) * last.out_height / jobs);
    });
  }

 private:
  // What lies between a stage and the next.
  struct Between {
    std::size_t line_bytes, height, lines, at;  // lines there is room for, `at` in scratch
    // The first and the last line of it that a line of the next stage reads.
    std::size_t stride, pad, reach;

    std::size_t first(std::size_t line) const {
      return std::min(height, std::max(line * stride, pad) - pad);
    }
    std::size_t end(std::size_t line) const {
      return std::min(height, std::max(line * stride + reach, pad + 1) - pad);
    }
  };

  void plan(const Kernels& k) {
    for (std::size_t i = 0; i + 1 < stages_.size(); ++i) {
      const Windows& w = stages_[i + 1]->windows();
      between_.push_back({.line_bytes = times(w.width, w.channels), .height = w.height, .lines = 0, .at = 0,
                          .stride = w.stride_h, .pad = w.pad_top,
                          .reach = times(w.kernel_h - 1, w.dilation_h) + 1});
    }
    while (band_ < stages_.back()->windows().out_height && most_bytes(2 * band_) <= kBandBytes) band_ *= 2;
    room_for(band_);
    std::size_t at = round_up(scratch_, kAlignment);
    for (std::size_t i = 0; i < between_.size(); ++i) {
      Between& b = between_[i];
      b.at = at;
      // Kernels read whole blocks of rows.
      const std::size_t beyond = k.rows * stages_[i]->out_channels() + kSlack;
      at = round_up(at + times(b.lines, b.line_bytes) + beyond, kAlignment);
    }
    scratch_ = at;
  }

  // Room for what `band` lines of the output need.
  void room_for(std::size_t band) {
    for (std::size_t i = between_.size(); i-- > 0;) {
      Between& b = between_[i];
      const std::size_t fresh = times(band, b.stride), needed = fresh - b.stride + b.reach;
      b.lines = std::min(b.height, needed + (b.reach > b.stride ? times(kRunOn, fresh) : 0));
      band = std::min(needed, b.height);
    }
  }

  std::size_t most_bytes(std::size_t band) const {
    std::size_t most = 0;
    for (std::size_t i = between_.size(); i-- > 0;) {
      band *= between_[i].stride;
      most = std::max(most, times(band, between_[i].line_bytes));
    }
    return most;
  }

  // Lines of one image, one after another.
  class Job {
   public:
    Job(const Chain& chain, const Context& context, std::size_t thread, std::size_t image)
        : chain_(chain), context_(context), thread_(thread), image_(image) {}

    void run(std::size_t first, std::size_t end) {
      std::size_t next = first;
      for (std::size_t i = chain_.stages_.size(); i-- > 0;) {
        if (i + 1 < chain_.stages_.size()) next = chain_.between_[i].first(next);
        ready_[i] = base_[i] = next;
      }
      const std::size_t last = chain_.stages_.size() - 1;
      for (std::size_t line = first; line < end; line += chain_.band_) {
        produce(last, std::min(end, line + chain_.band_));
      }
    }

   private:
    // The lines of a stage's output up to `end`.
    void produce(std::size_t stage, std::size_t end) {
      const std::size_t first = ready_[stage];
      if (first >= end) return;
      if (stage > 0) produce(stage - 1, chain_.between_[stage - 1].end(end - 1));
      if (stage + 1 < chain_.stages_.size()) make_room(stage, end);
      const Lined& of = *chain_.stages_[stage];
      const auto* x = stage == 0 ? context_.at<const std::uint8_t>(of.input()) : lines_of(stage - 1);
      auto* y = stage + 1 == chain_.stages_.size() ? context_.at<std::uint8_t>(of.output()) : lines_of(stage);
      of.lines(context_, thread_, image_, first, end - first, x, y);
      ready_[stage] = end;
    }

    // Moves the lines that are still needed to the beginning, if there is no room for more.
    void make_room(std::size_t stage, std::size_t end) {
      const Between& b = chain_.between_[stage];
      if (end - base_[stage] <= b.lines) return;
      const std::size_t keep = std::min(b.first(ready_[stage + 1]), ready_[stage]);
      std::uint8_t* memory = context_.engine.scratch(thread_) + b.at;
      std::memmove(memory, memory + (keep - base_[stage]) * b.line_bytes,
                   (ready_[stage] - keep) * b.line_bytes);
      base_[stage] = keep;
    }

    // Where the first image would begin.
    std::uint8_t* lines_of(std::size_t stage) const {
      const Between& b = chain_.between_[stage];
      const auto before = static_cast<std::ptrdiff_t>((image_ * b.height + base_[stage]) * b.line_bytes);
      return context_.engine.scratch(thread_) + b.at - before;
    }

    const Chain& chain_;
    const Context& context_;
    std::size_t thread_, image_;
    // The first line that a stage has not computed, and the first that lies behind it.
    std::array<std::size_t, kMostStages> ready_{}, base_{};
  };

  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<const Lined*> stages_;
  std::vector<Between> between_;
  std::size_t threads_, scratch_ = 0, band_ = 1;
};

}  // namespace

std::unique_ptr<Step> make_chain(const Program& program, std::vector<std::unique_ptr<Step>> stages) {
  return std::make_unique<Chain>(program, std::move(stages));
}

}  // namespace intact
