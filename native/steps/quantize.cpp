// From float32 to uint8: with a scale and zero point that are known, or with those of each row, as
// ONNX's DynamicQuantizeLinear computes them.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "rows.hpp"
#include "steps.hpp"

namespace intact {
namespace {

constexpr std::size_t kLine = 256;

// An image: x [channels][pixels] to y [pixels][channels].
struct Image {
  std::size_t channels, pixels;

  std::size_t size() const { return times(channels, pixels); }

  void quantize(const Kernels& k, const float* x, const Part& part, float scale,
                std::int32_t zero_point, bool bounded, std::uint8_t* y) const {
    if (channels == 1) {
      k.quantize(x + part.begin, part.end - part.begin, scale, zero_point, bounded, y + part.begin);
      return;
    }
    std::uint8_t line[3][kLine];
    for (std::size_t p = part.begin; p < part.end; p += kLine) {
      const std::size_t n = std::min(kLine, part.end - p);
      for (std::size_t c = 0; c < channels; ++c) {
        std::uint8_t* to = line[channels == 3 ? c : 0];
        k.quantize(x + c * pixels + p, n, scale, zero_point, bounded, to);
        if (channels == 3) continue;
        for (std::size_t i = 0; i < n; ++i) y[(p + i) * channels + c] = to[i];
      }
      if (channels == 3) k.interleave3({line[0], line[1], line[2]}, n, y + 3 * p);
    }
  }
};

class Quantize final : public Step {
 public:
  Quantize(const Program& program, Region x, Region y, std::size_t images, Image image, float scale,
           std::int32_t zero_point)
      : x_(x), y_(y), images_(images), image_(image), scale_(scale), zero_point_(zero_point),
        k_(program.engine().kernels()) {
    const std::size_t size = times(images, image.size());
    program.check(x);
    program.check(y);
    require(size > 0, "a tensor is empty");
    require(x.bytes >= times(size, sizeof(float)) && y.bytes >= size, "a tensor is too small");
    require(zero_point >= 0 && zero_point <= 255, "a zero point is no uint8");
  }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<std::uint8_t>(y_);
    const std::size_t jobs = jobs_of(image_.pixels, image_.channels), size = image_.size();
    context.engine.pool().run(images_ * jobs, [&](std::size_t job, std::size_t) {
      const std::size_t at = job / jobs * size;
      const Part part(image_.pixels, job % jobs, jobs);
      image_.quantize(k_, x + at, part, scale_, zero_point_, false, y + at);
    });
  }

 private:
  Region x_, y_;
  std::size_t images_;
  Image image_;
  float scale_;
  std::int32_t zero_point_;
  const Kernels& k_;
};

class QuantizeRows final : public Step {
 public:
  QuantizeRows(const Program& program, Region x, Region y, const RowParameters& parameters,
               std::optional<Extremes> extremes, std::size_t rows, Image image)
      : x_(x), y_(y), p_(parameters), extremes_(extremes), rows_(rows), image_(image),
        threads_(program.engine().pool().threads()), k_(program.engine().kernels()) {
    program.check(x);
    program.check(y);
    p_.check(program, rows);
    const std::size_t count = times(rows, image.size());
    require(count > 0, "a tensor is empty");
    require(x.bytes >= times(count, sizeof(float)) && y.bytes >= count, "a tensor is too small");
    if (extremes_) {
      extremes_->check(program, rows);
      require(extremes_->images == rows, "there are extremes of other images than rows");
    }
    // Long rows (images) are shared out among the threads, a part at a time.
    jobs_ = jobs_of(image.pixels, image.channels);
    whole_ = !extremes_ && (jobs_ == 1 || rows >= 8 * threads_);
  }

  std::size_t scratch() const override { return whole_ ? 0 : times(rows_, 2 * sizeof(float)); }

  void run(const Context& context) const override {
    const auto* x = context.at<const float>(x_);
    auto* y = context.at<std::uint8_t>(y_);
    const std::size_t size = image_.size();
    auto* scales = context.at<float>(p_.scales);
    auto* points = context.at<std::int32_t>(p_.zero_points);
    if (whole_) {
      for_rows(context, rows_, size, [&](std::size_t r, std::size_t) {
        float found[2] = {};
        k_.extremes(x + r * size, size, &found[0], &found[1]);
        p_.set(context, r, found[0], found[1]);
        image_.quantize(k_, x + r * size, {image_.pixels, 0, 1}, scales[r], points[r], true,
                        y + r * size);
      });
      return;
    }
    if (extremes_) {
      extremes_->parameters(context, p_);
    } else {
      find(context, x);
    }
    context.engine.pool().run(rows_ * jobs_, [&](std::size_t job, std::size_t) {
      const std::size_t r = job / jobs_;
      const Part part(image_.pixels, job % jobs_, jobs_);
      image_.quantize(k_, x + r * size, part, scales[r], points[r], true, y + r * size);
    });
  }

 private:
  // Each thread keeps the extremes of all rows in its scratch: [rows][2].
  void find(const Context& context, const float* x) const {
    const std::size_t size = image_.size(), parts = jobs_of(size, 1);
    const auto of = [&](std::size_t thread) {
      return reinterpret_cast<float*>(context.engine.scratch(thread));
    };
    for (std::size_t t = 0; t < threads_; ++t) std::memset(of(t), 0, rows_ * 2 * sizeof(float));
    context.engine.pool().run(rows_ * parts, [&](std::size_t job, std::size_t thread) {
      const std::size_t r = job / parts;
      const Part part(size, job % parts, parts);
      float* found = of(thread) + 2 * r;
      k_.extremes(x + r * size + part.begin, part.end - part.begin, &found[0], &found[1]);
    });
    for (std::size_t r = 0; r < rows_; ++r) {
      float low = 0, high = 0;
      for (std::size_t t = 0; t < threads_; ++t) {
        low = std::min(low, of(t)[2 * r]);
        high = std::max(high, of(t)[2 * r + 1]);
      }
      p_.set(context, r, low, high);
    }
  }

  Region x_, y_;
  RowParameters p_;
  std::optional<Extremes> extremes_;
  std::size_t rows_;
  Image image_;
  std::size_t threads_, jobs_;
  bool whole_;
  const Kernels& k_;
};

// What gates make of images, of whose lines the greatest and least values are known: those of an image times its
// gates are the extremes of the product, as floats round the same way.
class QuantizeGated final : public Step {
 public:
  QuantizeGated(const Program& program, const GatedImages& given, Region y, const RowParameters& parameters)
      : g_(given), y_(y), p_(parameters), size_(times(g_.pixels, g_.channels)), k_(program.engine().kernels()) {
    for (const Region& region : {g_.x, g_.gate, g_.most, g_.negatives, y_}) program.check(region);
    p_.check(program, g_.images);
    const std::size_t count = times(g_.images, size_);
    const std::size_t found = times(times(g_.images, g_.lines), g_.channels);
    require(count > 0 && g_.lines > 0, "a tensor is empty");
    require(g_.x.bytes >= times(count, sizeof(float)) && y_.bytes >= count &&
                g_.gate.bytes >= times(times(g_.images, g_.channels), sizeof(float)) &&
                g_.most.bytes >= times(found, sizeof(float)) && g_.negatives.bytes >= times(found, sizeof(float)),
            "a tensor is too small");
    jobs_ = jobs_of(g_.pixels, g_.channels);
  }

  std::size_t scratch() const override { return times(g_.channels + kSlack, sizeof(float)); }

  void run(const Context& context) const override {
    Pool& pool = context.engine.pool();
    pool.run(g_.images, [&](std::size_t image, std::size_t thread) { find(context, image, thread); });
    pool.run(g_.images * jobs_, [&](std::size_t job, std::size_t thread) {
      const std::size_t image = job / jobs_;
      // Gates of one image after another, for vectors that reach over the end.
      auto* gates = reinterpret_cast<float*>(context.engine.scratch(thread));
      const float* of = gate(context, image);
      for (std::size_t i = 0; i < g_.channels + kSlack; i += g_.channels) {
        std::copy_n(of, std::min(g_.channels, g_.channels + kSlack - i), gates + i);
      }
      const Part part(g_.pixels, job % jobs_, jobs_);
      const std::size_t first = image * size_ + part.begin * g_.channels;
      k_.quantize_scaled(context.at<const float>(g_.x) + first, (part.end - part.begin) * g_.channels, gates,
                         g_.channels, context.at<const float>(p_.scales)[image],
                         context.at<const std::int32_t>(p_.zero_points)[image],
                         context.at<std::uint8_t>(y_) + first);
    });
  }

 private:
  const float* gate(const Context& context, std::size_t image) const {
    return context.at<const float>(g_.gate) + image * g_.channels;
  }

  void find(const Context& context, std::size_t image, std::size_t thread) const {
    auto* of_channels = reinterpret_cast<float*>(context.engine.scratch(thread));
    const Window lines{g_.lines, 1, g_.channels, g_.channels};
    // widen(extremes) by the products of the greatest values of each channel.
    const auto widen = [&](const Region& greatest, float (&extremes)[2]) {
      const float* from = context.at<const float>(greatest) + image * g_.lines * g_.channels;
      k_.pool_real(from, lines, g_.channels, true, of_channels);
      k_.mul_real(of_channels, gate(context, image), of_channels, g_.channels);
      k_.extremes(of_channels, g_.channels, &extremes[0], &extremes[1]);
    };
    float of_most[2] = {}, of_negatives[2] = {};
    widen(g_.most, of_most);
    widen(g_.negatives, of_negatives);
    p_.set(context, image, std::min(of_most[0], -of_negatives[1]), std::max(of_most[1], -of_negatives[0]));
  }

  GatedImages g_;
  Region y_;
  RowParameters p_;
  std::size_t size_, jobs_;
  const Kernels& k_;
};

}  // namespace

void RowParameters::check(const Program& program, std::size_t rows) const {
  program.check(scales);
  program.check(zero_points);
  require(scales.bytes >= times(rows, sizeof(float)) &&
              zero_points.bytes >= times(rows, sizeof(std::int32_t)),
          "there are too few scales or zero points");
}

void RowParameters::set(const Context& context, std::size_t row, float low, float high) const {
  row_parameters(low, high, context.at<float>(scales)[row], context.at<std::int32_t>(zero_points)[row]);
}

void Extremes::check(const Program& program, std::size_t rows) const {
  program.check(region);
  require(images > 0 && rows % images == 0, "rows do not belong to images");
  require(region.bytes >= times(times(program.engine().pool().threads(), images), 2 * sizeof(float)),
          "there is too little room for extremes");
}

void Extremes::clear(const Context& context) const {
  const std::size_t threads = context.engine.pool().threads();
  std::memset(context.at<float>(region), 0, threads * images * 2 * sizeof(float));
}

void Extremes::parameters(const Context& context, const RowParameters& to) const {
  for (std::size_t image = 0; image < images; ++image) {
    float low = 0, high = 0;
    for (std::size_t t = 0; t < context.engine.pool().threads(); ++t) {
      const float* found = of(context, t, image);
      low = std::min(low, found[0]);
      high = std::max(high, found[1]);
    }
    to.set(context, image, low, high);
  }
}

std::unique_ptr<Step> make_quantize(const Program& program, Region x, Region y, std::size_t images,
                                    std::size_t channels, std::size_t pixels, float scale,
                                    std::int32_t zero_point) {
  return std::make_unique<Quantize>(program, x, y, images, Image{channels, pixels}, scale, zero_point);
}

std::unique_ptr<Step> make_quantize_gated(const Program& program, const GatedImages& given, Region y,
                                          const RowParameters& parameters) {
  return std::make_unique<QuantizeGated>(program, given, y, parameters);
}

std::unique_ptr<Step> make_quantize_rows(const Program& program, Region x, Region y,
                                         const RowParameters& parameters,
                                         std::optional<Extremes> extremes, std::size_t rows,
                                         std::size_t channels, std::size_t pixels) {
  return std::make_unique<QuantizeRows>(program, x, y, parameters, extremes, rows,
                                        Image{channels, pixels});
}

}  // namespace intact
