// The steps that move, mix and scale images, as methods of Program.

#include <nanobind/stl/array.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.hpp"

namespace nb = nanobind;
using namespace intact;

namespace {

// scale, zero point
using Scale = std::tuple<float, std::int32_t>;
// of each value `count` indices and weights
using TapArrays = std::tuple<std::size_t, Row<std::int64_t>, Row<float>>;

Taps taps_of(const TapArrays& arrays) {
  const auto& [count, index, weight] = arrays;
  return {count, vector(index), vector(weight)};
}

std::optional<Scaled> scaled(const std::optional<Scale>& scale) {
  if (!scale) return std::nullopt;
  return Scaled{std::get<0>(*scale), std::get<1>(*scale)};
}

}  // namespace

void intact::bind_images(nb::class_<Program>& program) {
  program
      .def("move", [](Program& p, const std::string& label, const Place& x, const Place& y,
                      std::size_t x_offset, std::size_t y_offset,
                      const std::vector<std::array<std::size_t, 3>>& axes,
                      const std::vector<std::optional<Row<std::int64_t>>>& offsets,
                      std::size_t value_bytes, std::uint64_t fill,
                      const std::optional<Row<std::uint8_t>>& table) {
        require(axes.size() == offsets.size(), "there are not as many offsets as axes");
        std::vector<MoveAxis> all;
        for (std::size_t i = 0; i < axes.size(); ++i) {
          all.push_back({axes[i][0], axes[i][1], axes[i][2], {}});
          if (offsets[i]) all.back().offsets = vector(*offsets[i]);
        }
        std::vector<std::uint8_t> entries;
        if (table) entries = vector(*table);
        p.add(make_move(p, {region(x), x_offset}, {target(y), y_offset}, std::move(all),
                        value_bytes, fill, std::move(entries)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("x_offset"), nb::arg("y_offset"),
         nb::arg("axes"), nb::arg("offsets"), nb::arg("value_bytes"), nb::arg("fill"),
         nb::arg("table").none())
      .def("channelwise", [](Program& p, const std::string& label, const Place& x, const Place& y,
                             std::size_t pixels, const Row<float>& factor, const Row<float>& shift,
                             const Row<float>& slope, const Scale& from, float scale,
                             const std::tuple<float, float, std::int32_t>& clamp) {
        const auto& [low, high, zero_point] = clamp;
        require(zero_point >= 0 && zero_point <= 255 && low <= high &&
                    low >= static_cast<float>(-zero_point) &&
                    high <= static_cast<float>(255 - zero_point),
                "a clamp leaves what is no uint8");
        Channelwise c{};
        std::tie(c.x_scale, c.x_zero_point) = from;
        require(c.x_zero_point >= 0 && c.x_zero_point <= 255, "a zero point is no uint8");
        std::tie(c.low, c.high, c.zero_point) = clamp;
        c.scale = scale;
        p.add(make_channelwise(p, region(x), target(y), pixels,
                               {vector(factor), vector(shift), vector(slope)}, c), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("pixels"), nb::arg("factor"),
         nb::arg("shift"), nb::arg("slope"), nb::arg("quantized"), nb::arg("scale"),
         nb::arg("clamp"))
      .def("real_channelwise", [](Program& p, const std::string& label, const Place& x,
                                  const Place& y, std::size_t pixels, const Row<float>& factor,
                                  const Row<float>& shift, const Row<float>& slope,
                                  const std::optional<std::tuple<std::string, float, float>>& f) {
        std::optional<Applied> function;
        if (f) function = Applied{unary_of(std::get<0>(*f)), std::get<1>(*f), std::get<2>(*f)};
        p.add(make_real_channelwise(p, region(x), target(y), pixels,
                                    {vector(factor), vector(shift), vector(slope)}, function),
              label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("pixels"), nb::arg("factor"),
         nb::arg("shift"), nb::arg("slope"), nb::arg("function").none())
      .def("resample", [](Program& p, const std::string& label, const Place& x, const Place& y,
                          const std::array<std::size_t, 6>& sizes, const TapArrays& rows,
                          const TapArrays& columns, const std::optional<Scale>& from,
                          const std::optional<Scale>& to) {
        p.add(make_resample(p, region(x), target(y), sizes, taps_of(rows), taps_of(columns),
                            scaled(from), scaled(to)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("sizes"), nb::arg("rows"),
         nb::arg("columns"), nb::arg("quantized").none(), nb::arg("to").none())
      .def("map", [](Program& p, const std::string& label, const Place& x, const Place& y,
                     std::size_t size, const std::string& function, float alpha) {
        p.add(make_map(p, region(x), target(y), size, function, alpha), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("size"), nb::arg("function"),
         nb::arg("alpha"))
      .def("lookup_floats", [](Program& p, const std::string& label, const Place& x, const Place& y,
                               std::size_t size, const Row<float>& table) {
        p.add(make_lookup_floats(p, region(x), target(y), size, vector(table)), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("size"), nb::arg("table"));
}
