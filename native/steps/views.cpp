// Attention over float32 tensors that are seen by strides.

#include <algorithm>

#include "steps.hpp"

namespace intact {

namespace {

class AttentionStep final : public Step {
 public:
  AttentionStep(const Program& program, const View& q, const View& k, const View& v,
                const std::optional<View>& mask, const View& y, std::size_t batch,
                std::size_t heads, std::size_t queries, std::size_t keys, std::size_t width,
                std::size_t v_width, float scale, bool empty_is_zero, std::size_t masks,
                std::optional<Quantized> quantized)
      : q_(q), k_(k), v_(v), y_(y), mask_(mask), batch_(batch), heads_(heads), masks_(masks),
        quantized_(quantized), kernels_(program.engine().kernels()) {
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
    a_.far = q.region.bytes > kFarBytes;
    times(times(queries, keys), times(width, v_width));
    if (quantized_) {
      program.check(quantized_->y);
      require(quantized_->y.bytes >= y.region.bytes / sizeof(float), "a tensor is too small");
      require(quantized_->zero_point >= 0 && quantized_->zero_point <= 255 && !quantized_->rows,
              "attention quantizes with one zero point, a uint8");
      a_.q_scale = quantized_->scale;
      a_.q_zero_point = quantized_->zero_point;
    }
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
      if (quantized_) a.bytes = context.at<std::uint8_t>(quantized_->y) + (a.y - context.at<float>(y_.region));
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
  std::optional<Quantized> quantized_;
  Attention a_{};
  const Kernels& kernels_;
};

}  // namespace

std::unique_ptr<Step> make_attention(const Program& program, const View& q, const View& k,
                                     const View& v, const std::optional<View>& mask,
                                     const View& y, std::size_t batch, std::size_t heads,
                                     std::size_t queries, std::size_t keys, std::size_t width,
                                     std::size_t v_width, float scale, bool empty_is_zero,
                                     std::size_t masks, std::optional<Quantized> quantized) {
  return std::make_unique<AttentionStep>(program, q, k, v, mask, y, batch, heads, queries, keys,
                                         width, v_width, scale, empty_is_zero, masks, quantized);
}

}  // namespace intact
