// float32 tensors that are seen by strides: copies from one order to another, and attention.

#include <algorithm>
#include <cstring>

#include "rows.hpp"
#include "steps.hpp"

namespace intact {

namespace {

class Permute final : public Step {
 public:
  Permute(const Program& program, const View& x, const View& y, std::vector<std::size_t> shape)
      : x_(x), y_(y), shape_(std::move(shape)) {
    require(!shape_.empty(), "a tensor is a scalar");
    check_view(program, x, shape_, sizeof(float));
    check_view(program, y, shape_, sizeof(float));
    inner_ = shape_.back();
    outer_ = 1;
    for (std::size_t i = 0; i + 1 < shape_.size(); ++i) outer_ = times(outer_, shape_[i]);
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_.region) + x_.offset;
    auto* y = context.at<float>(y_.region) + y_.offset;
    const std::size_t x_step = x_.strides.back(), y_step = y_.strides.back();
    for_rows(context, outer_, inner_, [&](std::size_t r, std::size_t) {
      std::size_t from = 0, to = 0, rest = r;
      for (std::size_t i = shape_.size() - 1; i-- > 0;) {
        const std::size_t index = rest % shape_[i];
        rest /= shape_[i];
        from += index * x_.strides[i];
        to += index * y_.strides[i];
      }
      if (x_step == 1 && y_step == 1) {
        std::memcpy(y + to, x + from, inner_ * sizeof(float));
      } else {
        for (std::size_t i = 0; i < inner_; ++i) y[to + i * y_step] = x[from + i * x_step];
      }
    });
  }

 private:
  View x_, y_;
  std::vector<std::size_t> shape_;
  std::size_t inner_, outer_;
};

class AttentionStep final : public Step {
 public:
  AttentionStep(const Program& program, const View& q, const View& k, const View& v,
                const std::optional<View>& mask, const View& y, std::size_t batch,
                std::size_t heads, std::size_t queries, std::size_t keys, std::size_t width,
                std::size_t v_width, float scale, bool empty_is_zero, std::size_t masks)
      : q_(q), k_(k), v_(v), y_(y), mask_(mask), batch_(batch), heads_(heads), masks_(masks),
        kernels_(program.engine().kernels()) {
    check(program, q, batch, queries, width);
    check(program, k, batch, keys, width);
    check(program, v, batch, keys, v_width);
    check(program, y, batch, queries, v_width);
    require(masks > 0, "there are no masks");
    if (mask) check(program, *mask, std::min(masks, batch), queries, keys);
    a_.queries = queries;
    a_.keys = keys;
    a_.width = width;
    a_.v_width = v_width;
    a_.scale = scale;
    a_.empty_is_zero = empty_is_zero;
    a_.q_stride = q.strides[2];
    a_.k_stride = k.strides[2];
    a_.v_stride = v.strides[2];
    a_.y_stride = y.strides[2];
    a_.mask_stride = mask ? mask->strides[2] : 0;
    times(times(queries, keys), times(width, v_width));
  }

  std::size_t scratch() const override { return times(kernels_.attention_scratch(a_), sizeof(float)); }

  void run(const Context& context) const override {
    context.engine.pool().run(batch_ * heads_, [&](std::size_t job, std::size_t thread) {
      const std::size_t b = job / heads_, h = job % heads_;
      const auto at = [&](const View& view, std::size_t first) {
        return context.at<float>(view.region) + view.offset + first * view.strides[0] +
               h * view.strides[1];
      };
      Attention a = a_;
      a.q = at(q_, b);
      a.k = at(k_, b);
      a.v = at(v_, b);
      a.y = at(y_, b);
      a.mask = mask_ ? at(*mask_, b % masks_) : nullptr;
      kernels_.begin();
      kernels_.attention(a, reinterpret_cast<float*>(context.engine.scratch(thread)));
    });
  }

 private:
  void check(const Program& program, const View& view, std::size_t batch, std::size_t rows,
             std::size_t columns) const {
    require(view.strides.size() == 4 && view.strides[3] == 1, "a head's values are not adjacent");
    check_view(program, view, {batch, heads_, rows, columns}, sizeof(float));
  }

  View q_, k_, v_, y_;
  std::optional<View> mask_;
  std::size_t batch_, heads_, masks_;
  Attention a_{};
  const Kernels& kernels_;
};

}  // namespace

std::unique_ptr<Step> make_permute(const Program& program, const View& x, const View& y,
                                   std::vector<std::size_t> shape) {
  return std::make_unique<Permute>(program, x, y, std::move(shape));
}

std::unique_ptr<Step> make_attention(const Program& program, const View& q, const View& k,
                                     const View& v, const std::optional<View>& mask,
                                     const View& y, std::size_t batch, std::size_t heads,
                                     std::size_t queries, std::size_t keys, std::size_t width,
                                     std::size_t v_width, float scale, bool empty_is_zero,
                                     std::size_t masks) {
  return std::make_unique<AttentionStep>(program, q, k, v, mask, y, batch, heads, queries, keys,
                                         width, v_width, scale, empty_is_zero, masks);
}

}  // namespace intact
