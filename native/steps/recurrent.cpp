// LSTM and GRU. Sequences do not depend on each other, so threads share them out and each goes
// through all time steps by itself. Where there are too few sequences for that and a step is long,
// the threads share out the units of each step.

#include "recurrent.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

#include "rows.hpp"

namespace intact {
namespace {

constexpr std::size_t kMostRows = 32;           // of one job
constexpr std::size_t kShareFrom = 512 * 1024;  // bytes of a step's weights that are worth a fork
constexpr std::size_t kAlignment = 64;
constexpr std::size_t kNoOffset = 0;
constexpr Kernel kPointwise{1, 1, 1, 1, 1, 1};

std::size_t gates_of(Cell cell) { return cell == Cell::kLstm ? 4 : 3; }

template <class T>
std::vector<T> padded_columns(const std::vector<T>& values, std::size_t gates, std::size_t hidden,
                              std::size_t padded) {
  std::vector<T> wide(values.empty() ? 0 : times(gates, padded));
  for (std::size_t i = 0; i < values.size(); ++i) wide[i / hidden * padded + i % hidden] = values[i];
  return wide;
}

class Recurrence final : public Step {
 public:
  Recurrence(const Program& program, Cell cell, std::size_t time, std::size_t batch,
             std::size_t hidden, std::vector<Direction> directions)
      : cell_(cell), time_(time), batch_(batch), hidden_(hidden), gates_(gates_of(cell)),
        directions_(std::move(directions)), k_(program.engine().kernels()) {
    require(!directions_.empty() && directions_.front().weights, "a recurrence has no direction");
    for (const Direction& d : directions_) check(program, d);
    const RecurrentWeights& w = *directions_.front().weights;
    panel_ = w.panel;
    panels_ = w.padded / panel_;
    const std::size_t threads = program.engine().pool().threads();
    const std::size_t rows = times(batch, directions_.size());
    block_ = std::clamp<std::size_t>((rows + threads - 1) / threads, 1, std::min(kMostRows, batch));
    const std::size_t bytes = times(times(gates_, hidden), hidden) * (w.integers ? 1 : sizeof(float));
    shared_ = rows < threads && bytes >= kShareFrom;
    // Sequences that go together read the weights once.
    if (shared_) block_ = std::min(kMostRows, batch);
    blocks_ = (batch + block_ - 1) / block_;
    sub_ = w.integers ? k_.rows : block_;
    parts_ = shared_ ? std::min(panels_, threads) : 1;
    plan_scratch();
  }

  std::size_t scratch() const override { return shared_bytes_ + own_bytes_; }

  void run(const Context& context) const override {
    const std::size_t units = blocks_ * directions_.size();
    Pool& pool = context.engine.pool();
    if (!shared_) {
      pool.run(units, [&](std::size_t unit, std::size_t thread) {
        k_.begin();
        std::uint8_t* memory = context.engine.scratch(thread);
        const Lane lane = start(context, unit, memory);
        for (std::size_t i = 0; i < time_; ++i) {
          prepare(lane);
          for (std::size_t phase = 0; phase < phases(); ++phase) {
            advance(lane, i, phase, 0, panels_, memory + shared_bytes_);
          }
        }
      });
      return;
    }
    for (std::size_t unit = 0; unit < units; ++unit) {
      const Lane lane = start(context, unit, context.engine.scratch(0));
      for (std::size_t i = 0; i < time_; ++i) {
        prepare(lane);
        for (std::size_t phase = 0; phase < phases(); ++phase) {
          pool.run(parts_, [&](std::size_t part, std::size_t thread) {
            k_.begin();
            advance(lane, i, phase, part * panels_ / parts_, (part + 1) * panels_ / parts_,
                    context.engine.scratch(thread) + shared_bytes_);
          });
        }
      }
    }
  }

 private:
  // Some sequences of one direction on their way through time.
  struct Lane {
    const Direction* direction;
    std::size_t count;
    const float* from_x;
    float *y, *h, *c;
    std::uint8_t* state;  // what the products read: [count][state_stride_] bytes
    float* scales;        // of integers
    std::int32_t* points;
    float *update, *reset;  // [count][hidden], of a GRU in two halves
  };

  // Of floats all panels are whole.
  Panel panel_at(std::size_t panel) const {
    if (directions_.front().weights->integers) return panel_of(k_, hidden_, panel);
    return {panel * panel_, panel_};
  }

  std::size_t phases() const { return cell_ == Cell::kGruResetFirst ? 2 : 1; }

  void check(const Program& program, const Direction& d) const {
    require(d.weights && d.weights->gates == gates_ && d.weights->hidden == hidden_,
            "a recurrence's weights do not fit");
    const bool integers = d.weights->integers != nullptr;
    require(integers == (directions_.front().weights->integers != nullptr),
            "a recurrence has integers and floats");
    require(!integers || (d.weights->integers->kernels == &k_ && cell_ != Cell::kGruResetFirst),
            "weights are packed for another instruction set or cell");
    require(d.c0.has_value() == (cell_ == Cell::kLstm) && d.c.has_value() == d.c0.has_value(),
            "an LSTM, and no other cell, has a cell state");
    check_view(program, d.from_x, {time_, batch_, times(gates_, hidden_)});
    check_view(program, d.y, {time_, batch_, hidden_});
    require(d.from_x.strides[2] == 1 && d.y.strides[2] == 1, "a sequence's values are not adjacent");
    check_view(program, d.h0, {batch_, hidden_});
    check_state(program, d.h);
    if (d.c) {
      check_view(program, *d.c0, {batch_, hidden_});
      check_state(program, *d.c);
    }
  }

  void check_state(const Program& program, const View& view) const {
    check_view(program, view, {batch_, hidden_});
    require(view.strides[0] == hidden_ && view.strides[1] == 1, "a final state has gaps");
  }

  void plan_scratch() {
    const bool integers = directions_.front().weights->integers != nullptr;
    const auto reserve = [](std::size_t& total, std::size_t bytes) {
      const std::size_t offset = total;
      total += round_up(bytes, kAlignment);
      return offset;
    };
    state_stride_ = integers ? round_up(hidden_, kAlignment) : times(hidden_, sizeof(float));
    // Kernels read whole blocks of rows.
    const std::size_t rows = integers ? round_up(block_, k_.rows) : block_;
    reserve(shared_bytes_, times(rows, state_stride_) + kSlack);
    scales_at_ = reserve(shared_bytes_, block_ * sizeof(float));
    points_at_ = reserve(shared_bytes_, block_ * sizeof(std::int32_t));
    const std::size_t half = phases() == 2 ? times(times(block_, hidden_), sizeof(float)) : 0;
    update_at_ = reserve(shared_bytes_, half);
    reset_at_ = reserve(shared_bytes_, half);
    reserve(own_bytes_, integers ? k_.rows * k_.columns * sizeof(std::int32_t) : 0);
    gates_at_ = own_bytes_;
    reserve(own_bytes_, times(times(gates_, sub_), panel_ * sizeof(float)));
  }

  Lane start(const Context& context, std::size_t unit, std::uint8_t* memory) const {
    const Direction& d = directions_[unit / blocks_];
    const std::size_t row = unit % blocks_ * block_;
    const auto at = [&](const View& view, std::size_t stride) {
      return context.at<float>(view.region) + view.offset + row * stride;
    };
    Lane lane{};
    lane.direction = &d;
    lane.count = std::min(block_, batch_ - row);
    lane.from_x = at(d.from_x, d.from_x.strides[1]);
    lane.y = at(d.y, d.y.strides[1]);
    lane.h = at(d.h, hidden_);
    copy_state(at(d.h0, d.h0.strides[0]), d.h0, lane.h, lane.count);
    if (d.c) {
      lane.c = at(*d.c, hidden_);
      copy_state(at(*d.c0, d.c0->strides[0]), *d.c0, lane.c, lane.count);
    }
    lane.state = memory;
    lane.scales = reinterpret_cast<float*>(memory + scales_at_);
    lane.points = reinterpret_cast<std::int32_t*>(memory + points_at_);
    lane.update = reinterpret_cast<float*>(memory + update_at_);
    lane.reset = reinterpret_cast<float*>(memory + reset_at_);
    return lane;
  }

  void copy_state(const float* from, const View& view, float* to, std::size_t count) const {
    for (std::size_t r = 0; r < count; ++r) {
      for (std::size_t i = 0; i < hidden_; ++i) {
        to[r * hidden_ + i] = from[r * view.strides[0] + i * view.strides[1]];
      }
    }
  }

  // The state as the products read it: apart from where the new one is written.
  void prepare(const Lane& lane) const {
    if (!lane.direction->weights->integers) {
      std::memcpy(lane.state, lane.h, lane.count * hidden_ * sizeof(float));
      return;
    }
    for (std::size_t r = 0; r < lane.count; ++r) {
      const float* h = lane.h + r * hidden_;
      float low = 0, high = 0;
      k_.extremes(h, hidden_, &low, &high);
      row_parameters(low, high, lane.scales[r], lane.points[r]);
      k_.quantize(h, hidden_, lane.scales[r], lane.points[r], true, lane.state + r * state_stride_);
    }
  }

  // The units of panels [first, last) at the i-th time step.
  void advance(const Lane& lane, std::size_t i, std::size_t phase, std::size_t first,
               std::size_t last, std::uint8_t* memory) const {
    const Direction& d = *lane.direction;
    const std::size_t t = d.reverse ? time_ - 1 - i : i;
    auto* gates = reinterpret_cast<float*>(memory + gates_at_);
    const bool halves = phases() == 2;
    const std::size_t from = halves && phase == 1 ? 2 : 0;
    const std::size_t to = halves && phase == 0 ? 2 : gates_;
    for (std::size_t panel = first; panel < last; ++panel) {
      const auto [column, columns] = panel_at(panel);
      const std::size_t width = std::min(columns, hidden_ - column);
      for (std::size_t r = 0; r < lane.count; r += sub_) {
        const std::size_t n = std::min(sub_, lane.count - r), at = r * hidden_ + column;
        for (std::size_t g = from; g < to; ++g) {
          float* of_gate = gates + g * sub_ * panel_;
          if (d.weights->integers) {
            product(lane, g, panel, width, r, n, reinterpret_cast<std::int32_t*>(memory), of_gate);
          } else {
            real_product(lane, phase, g, column, width, r, n, of_gate);
          }
        }
        Cells s{};
        s.from_x = lane.from_x + t * d.from_x.strides[0] + r * d.from_x.strides[1] + column;
        s.x_stride = d.from_x.strides[1];
        s.x_gate = hidden_;
        s.from_h = gates;
        s.h_stride = panel_;
        s.h_gate = sub_ * panel_;
        s.h = lane.h + at;
        s.c = (halves ? lane.update : lane.c) + at;
        s.stride = hidden_;
        s.y = lane.y + t * d.y.strides[0] + r * d.y.strides[1] + column;
        s.y_stride = d.y.strides[1];
        if (halves && phase == 0) {
          s.y = lane.reset + at;
          s.y_stride = hidden_;
        }
        finish(s, phase, n, width);
      }
    }
  }

  void finish(const Cells& s, std::size_t phase, std::size_t count, std::size_t width) const {
    switch (cell_) {
      case Cell::kLstm: return k_.lstm_cells(s, count, width);
      case Cell::kGru: return k_.gru_cells(s, count, width);
      case Cell::kGruResetFirst: return (phase == 0 ? k_.gru_gates : k_.gru_state)(s, count, width);
    }
  }

  void product(const Lane& lane, std::size_t gate, std::size_t panel, std::size_t width,
               std::size_t row, std::size_t count, std::int32_t* sums, float* y) const {
    const RecurrentWeights& w = *lane.direction->weights;
    const Packed& packed = *w.integers;
    const auto [column, columns] = panel_of(k_, hidden_, panel);
    const std::size_t depth = round_up(hidden_, k_.k_step), c = gate * w.padded + column;
    const auto* weights = reinterpret_cast<const std::int8_t*>(packed.data.data()) +
                          gate * packed.group_bytes + column * depth;
    k_.gemm({.a = lane.state + row * state_stride_, .stride = state_stride_, .starts = nullptr,
             .count = count, .offsets = &kNoOffset, .taps = 1, .k = depth, .panel = weights,
             .columns = columns, .sums = sums, .beside = {}});
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    k_.finish(sums, columns, count, width,
              {.bias = &w.sums[c], .scale = &w.scale[c],
               .shift = w.bias.empty() ? nullptr : &w.bias[c], .scales = lane.scales + row,
               .zero_points = lane.points + row, .one_image = false, .function = {},
               .other = nullptr, .low = -kInfinity, .high = kInfinity, .y = y, .q = nullptr,
               .q_scale = 1, .q_zero_point = 0, .stride = panel_, .extremes = nullptr});
  }

  void real_product(const Lane& lane, std::size_t phase, std::size_t gate, std::size_t column,
                    std::size_t width, std::size_t row, std::size_t count, float* y) const {
    const RecurrentWeights& w = *lane.direction->weights;
    const float* state = phase == 1 ? lane.reset : reinterpret_cast<const float*>(lane.state);
    k_.real_product(state + row * hidden_, hidden_, count, w.reals->panel(gate, column), hidden_, y,
                    panel_);
    if (w.bias.empty()) return;
    const float* bias = &w.bias[gate * w.padded + column];
    for (std::size_t r = 0; r < count; ++r) k_.add_real(y + r * panel_, bias, y + r * panel_, width);
  }

  Cell cell_;
  std::size_t time_, batch_, hidden_, gates_;
  std::vector<Direction> directions_;
  const Kernels& k_;
  std::size_t panel_, panels_;
  // Rows of a job, and of those that are multiplied at a time.
  std::size_t block_, sub_, blocks_;
  bool shared_;
  std::size_t parts_;
  std::size_t state_stride_, scales_at_, points_at_, update_at_, reset_at_, gates_at_;
  std::size_t shared_bytes_ = 0, own_bytes_ = 0;
};

}  // namespace

RecurrentWeights::RecurrentWeights(const Kernels& kernels, Store& store, const std::int8_t* w,
                                   std::size_t gates, std::size_t hidden, const std::vector<float>& scales,
                                   const std::vector<float>& biases)
    : gates(gates), hidden(hidden), panel(kernels.columns), padded(round_up(hidden, panel)),
      integers(std::make_shared<Packed>(kernels, store, w, gates, hidden, hidden, kPointwise)) {
  const std::size_t columns = times(gates, hidden);
  require(columns > 0, "weights are empty");
  require(scales.size() == columns && (biases.empty() || biases.size() == columns),
          "a recurrence's scale or bias has another size than its gates");
  constexpr std::size_t kMostDepth = std::size_t{1} << 15;  // 2 * 255 * 128 * depth < 2**31
  require(hidden <= kMostDepth, "sums beyond int32");
  std::vector<std::int32_t> totals(columns);
  for (std::size_t row = 0; row < columns; ++row) {
    for (std::size_t j = 0; j < hidden; ++j) totals[row / hidden * hidden + j] += w[row * hidden + j];
  }
  sums = padded_columns(totals, gates, hidden, padded);
  scale = padded_columns(scales, gates, hidden, padded);
  bias = padded_columns(biases, gates, hidden, padded);
}

RecurrentWeights::RecurrentWeights(const float* w, std::size_t gates, std::size_t hidden,
                                   const std::vector<float>& biases)
    : gates(gates), hidden(hidden), panel(kRealColumns), padded(round_up(hidden, panel)),
      reals(std::make_shared<PackedReals>(w, gates, hidden, hidden)) {
  const std::size_t columns = times(gates, hidden);
  require(columns > 0, "weights are empty");
  require(biases.empty() || biases.size() == columns,
          "a recurrence's bias has another size than its gates");
  bias = padded_columns(biases, gates, hidden, padded);
}

std::unique_ptr<Step> make_recurrence(const Program& program, Cell cell, std::size_t time,
                                      std::size_t batch, std::size_t hidden,
                                      std::vector<Direction> directions) {
  return std::make_unique<Recurrence>(program, cell, time, batch, hidden, std::move(directions));
}

}  // namespace intact
