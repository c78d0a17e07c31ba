// Attention over float32 tensors that are seen by strides.

#include "steps.hpp"

namespace intact {

void check_view(const Program& program, const View& view, const std::vector<std::size_t>& shape) {
  program.check(view.region);
  require(view.strides.size() == shape.size(), "a view has another rank");
  std::size_t last = view.offset;
  require(last < SIZE_MAX / 4, "a view lies outside its tensor");
  for (std::size_t i = 0; i < shape.size(); ++i) {
    require(shape[i] > 0, "a tensor is empty");
    last += times(shape[i] - 1, view.strides[i]);
    require(last < SIZE_MAX / 4, "a view lies outside its tensor");
  }
  require(last < view.region.bytes / sizeof(float), "a view lies outside its tensor");
}

namespace {

class AttentionStep final : public Step {
 public:
  AttentionStep(const Program& program, const View& q, const View& k, const View& v,
                const std::optional<View>& mask, const View& y, std::size_t batch,
                std::size_t heads, std::size_t queries, std::size_t keys, std::size_t width,
                std::size_t v_width, float scale, bool empty_is_zero)
      : q_(q), k_(k), v_(v), y_(y), mask_(mask), batch_(batch), heads_(heads),
        kernels_(program.engine().kernels()) {
    check(program, q, queries, width);
    check(program, k, keys, width);
    check(program, v, keys, v_width);
    check(program, y, queries, v_width);
    if (mask) check(program, *mask, queries, keys);
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
      const auto at = [&](const View& view) {
        return context.at<float>(view.region) + view.offset + b * view.strides[0] +
               h * view.strides[1];
      };
      Attention a = a_;
      a.q = at(q_);
      a.k = at(k_);
      a.v = at(v_);
      a.y = at(y_);
      a.mask = mask_ ? at(*mask_) : nullptr;
      kernels_.begin();
      kernels_.attention(a, reinterpret_cast<float*>(context.engine.scratch(thread)));
    });
  }

 private:
  void check(const Program& program, const View& view, std::size_t rows, std::size_t columns) const {
    require(view.strides.size() == 4 && view.strides[3] == 1, "a head's values are not adjacent");
    check_view(program, view, {batch_, heads_, rows, columns});
  }

  View q_, k_, v_, y_;
  std::optional<View> mask_;
  std::size_t batch_, heads_;
  Attention a_{};
  const Kernels& kernels_;
};

}  // namespace

std::unique_ptr<Step> make_attention(const Program& program, const View& q, const View& k,
                                     const View& v, const std::optional<View>& mask,
                                     const View& y, std::size_t batch, std::size_t heads,
                                     std::size_t queries, std::size_t keys, std::size_t width,
                                     std::size_t v_width, float scale, bool empty_is_zero) {
  return std::make_unique<AttentionStep>(program, q, k, v, mask, y, batch, heads, queries, keys,
                                         width, v_width, scale, empty_is_zero);
}

}  // namespace intact
