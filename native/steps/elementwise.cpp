// Small tensors of float32 and int64 seen by strides, value by value: masks, ids, comparisons.
// Whole numbers and truth values are int64, whatever their type in the graph.

#include <array>
#include <cmath>
#include <functional>
#include <limits>
#include <map>

#include "rows.hpp"
#include "steps.hpp"

namespace intact {
namespace {

using Whole = std::int64_t;
constexpr std::size_t kMostOperands = 3;

// A row of `n` values; `steps`: from one value to the next, of the operands and then of y.
struct RowArguments {
  std::array<const std::uint8_t*, kMostOperands> x;
  std::uint8_t* y;
  std::array<std::size_t, kMostOperands> steps;
  std::size_t y_step, n;

  template <class T>
  const T* operand(std::size_t i) const {
    return reinterpret_cast<const T*>(x[i]);
  }
};

// What an operator needs, and the loop over a row.
struct Operator {
  std::size_t operands;
  std::array<std::size_t, kMostOperands> sizes;  // bytes of one value
  std::size_t y_size;
  void (*row)(const RowArguments&);
};

template <class Y, class A, class F>
constexpr Operator unary(F) {
  return {1, {sizeof(A)}, sizeof(Y), [](const RowArguments& r) {
            const auto* a = r.operand<A>(0);
            auto* y = reinterpret_cast<Y*>(r.y);
            for (std::size_t i = 0; i < r.n; ++i) y[i * r.y_step] = F{}(a[i * r.steps[0]]);
          }};
}

template <class Y, class A, class B, class F>
constexpr Operator binary(F) {
  return {2, {sizeof(A), sizeof(B)}, sizeof(Y), [](const RowArguments& r) {
            const auto* a = r.operand<A>(0);
            const auto* b = r.operand<B>(1);
            auto* y = reinterpret_cast<Y*>(r.y);
            if (r.steps[0] == 1 && r.steps[1] == 1 && r.y_step == 1) {
              for (std::size_t i = 0; i < r.n; ++i) y[i] = F{}(a[i], b[i]);
              return;
            }
            for (std::size_t i = 0; i < r.n; ++i) {
              y[i * r.y_step] = F{}(a[i * r.steps[0]], b[i * r.steps[1]]);
            }
          }};
}

template <class T>
constexpr Operator where() {
  return {3, {sizeof(Whole), sizeof(T), sizeof(T)}, sizeof(T), [](const RowArguments& r) {
            const auto* condition = r.operand<Whole>(0);
            const auto* yes = r.operand<T>(1);
            const auto* no = r.operand<T>(2);
            auto* y = reinterpret_cast<T*>(r.y);
            for (std::size_t i = 0; i < r.n; ++i) {
              y[i * r.y_step] = condition[i * r.steps[0]] ? yes[i * r.steps[1]] : no[i * r.steps[2]];
            }
          }};
}

// Towards zero; what is no int64 becomes the nearest, and NaN the lowest, as x86 has it.
Whole to_whole(float x) {
  constexpr float kEnd = 9223372036854775808.0f;  // 2 ** 63
  if (x >= kEnd) return std::numeric_limits<Whole>::max();
  if (!(x >= -kEnd)) return std::numeric_limits<Whole>::min();
  return static_cast<Whole>(x);
}

// Sums of int64 wrap around, which only unsigned numbers may.
template <class F>
Whole wrapped(Whole a, Whole b) {
  return static_cast<Whole>(F{}(static_cast<std::uint64_t>(a), static_cast<std::uint64_t>(b)));
}

template <class T, class Table>
void add_comparisons(Table& table, const std::string& suffix) {
  table["Equal" + suffix] = binary<Whole, T, T>([](T a, T b) { return Whole{a == b}; });
  table["Less" + suffix] = binary<Whole, T, T>([](T a, T b) { return Whole{a < b}; });
  table["LessOrEqual" + suffix] = binary<Whole, T, T>([](T a, T b) { return Whole{a <= b}; });
  table["Greater" + suffix] = binary<Whole, T, T>([](T a, T b) { return Whole{a > b}; });
  table["GreaterOrEqual" + suffix] = binary<Whole, T, T>([](T a, T b) { return Whole{a >= b}; });
  table["Min" + suffix] = binary<T, T, T>([](T a, T b) { return b < a || b != b ? b : a; });
  table["Max" + suffix] = binary<T, T, T>([](T a, T b) { return b > a || b != b ? b : a; });
  table["Where" + suffix] = where<T>();
  table["ToTruth" + suffix] = unary<Whole, T>([](T a) { return Whole{a != T{0}}; });
}

// The name ends in the type of the operands (of the values, for Where).
const std::map<std::string, Operator>& operators() {
  static const std::map<std::string, Operator> all = [] {
    std::map<std::string, Operator> table;
    add_comparisons<float>(table, ":float32");
    add_comparisons<Whole>(table, ":int64");
    table["Add:float32"] = binary<float, float, float>(std::plus<float>{});
    table["Pow:float32"] =
        binary<float, float, float>([](float a, float b) { return std::pow(a, b); });
    table["Add:int64"] = binary<Whole, Whole, Whole>(
        [](Whole a, Whole b) { return wrapped<std::plus<std::uint64_t>>(a, b); });
    table["Sub:int64"] = binary<Whole, Whole, Whole>(
        [](Whole a, Whole b) { return wrapped<std::minus<std::uint64_t>>(a, b); });
    table["Mul:int64"] = binary<Whole, Whole, Whole>(
        [](Whole a, Whole b) { return wrapped<std::multiplies<std::uint64_t>>(a, b); });
    table["And:int64"] =
        binary<Whole, Whole, Whole>([](Whole a, Whole b) { return Whole{a != 0 && b != 0}; });
    table["Or:int64"] =
        binary<Whole, Whole, Whole>([](Whole a, Whole b) { return Whole{a != 0 || b != 0}; });
    table["Xor:int64"] =
        binary<Whole, Whole, Whole>([](Whole a, Whole b) { return Whole{(a != 0) != (b != 0)}; });
    table["Not:int64"] = unary<Whole, Whole>([](Whole a) { return Whole{a == 0}; });
    table["ToFloat:int64"] = unary<float, Whole>([](Whole a) { return static_cast<float>(a); });
    table["ToInteger:float32"] = unary<Whole, float>([](float a) { return to_whole(a); });
    return table;
  }();
  return all;
}

class Elementwise final : public Step {
 public:
  Elementwise(const Program& program, const std::string& name, std::vector<View> x, const View& y,
              std::vector<std::size_t> shape)
      : x_(std::move(x)), y_(y), shape_(std::move(shape)) {
    const auto found = operators().find(name);
    require(found != operators().end(), "an operator is unknown");
    operator_ = found->second;
    require(x_.size() == operator_.operands, "an operator has another number of operands");
    require(!shape_.empty(), "a tensor is a scalar");
    for (std::size_t i = 0; i < x_.size(); ++i) {
      check_view(program, x_[i], shape_, operator_.sizes[i]);
    }
    check_view(program, y_, shape_, operator_.y_size);
    outer_ = 1;
    for (std::size_t i = 0; i + 1 < shape_.size(); ++i) outer_ = times(outer_, shape_[i]);
  }

  void run(const Context& context) const override {
    RowArguments start{};
    for (std::size_t i = 0; i < x_.size(); ++i) {
      start.x[i] = context.at<const std::uint8_t>(x_[i].region) + x_[i].offset * operator_.sizes[i];
      start.steps[i] = x_[i].strides.back();
    }
    start.y = context.at<std::uint8_t>(y_.region) + y_.offset * operator_.y_size;
    start.y_step = y_.strides.back();
    start.n = shape_.back();
    for_rows(context, outer_, start.n, [&](std::size_t r, std::size_t) {
      RowArguments row = start;
      for (std::size_t axis = shape_.size() - 1; axis-- > 0;) {
        const std::size_t index = r % shape_[axis];
        r /= shape_[axis];
        for (std::size_t i = 0; i < x_.size(); ++i) {
          row.x[i] += index * x_[i].strides[axis] * operator_.sizes[i];
        }
        row.y += index * y_.strides[axis] * operator_.y_size;
      }
      operator_.row(row);
    });
  }

 private:
  Operator operator_{};
  std::vector<View> x_;
  View y_;
  std::vector<std::size_t> shape_;
  std::size_t outer_;
};

}  // namespace

void check_view(const Program& program, const View& view, const std::vector<std::size_t>& shape,
                std::size_t value_bytes) {
  program.check(view.region);
  require(view.strides.size() == shape.size(), "a view has another rank");
  std::size_t last = view.offset;
  require(last < SIZE_MAX / 4, "a view lies outside its tensor");
  for (std::size_t i = 0; i < shape.size(); ++i) {
    require(shape[i] > 0, "a tensor is empty");
    last += times(shape[i] - 1, view.strides[i]);
    require(last < SIZE_MAX / 4, "a view lies outside its tensor");
  }
  require(last < view.region.bytes / value_bytes, "a view lies outside its tensor");
}

std::unique_ptr<Step> make_elementwise(const Program& program, const std::string& name,
                                       std::vector<View> x, const View& y,
                                       std::vector<std::size_t> shape) {
  return std::make_unique<Elementwise>(program, name, std::move(x), y, std::move(shape));
}

}  // namespace intact
