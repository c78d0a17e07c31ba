// The steps for ids and masks, as methods of Program.

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "program.hpp"
#include "steps/steps.hpp"

namespace nb = nanobind;
using namespace intact;

void bind_small(nb::class_<Program>& program);

namespace {

// As in bindings.cpp: (space, offset or index, bytes); and (place, offset, strides).
using Place = std::tuple<int, std::size_t, std::size_t>;
using Strided = std::tuple<Place, std::size_t, std::vector<std::size_t>>;

Region region(const Place& place) {
  const auto& [space, offset, bytes] = place;
  require(space >= 0 && space <= 2, "a tensor lies in no known space");
  return {static_cast<Space>(space), offset, bytes};
}

Region target(const Place& place) {
  const Region result = region(place);
  require(result.space != Space::kInput, "a step would write to an input");
  return result;
}

}  // namespace

void bind_small(nb::class_<Program>& program) {
  program
      .def("elementwise", [](Program& p, const std::string& label, const std::string& name,
                             const std::vector<Strided>& x, const Strided& y,
                             const std::vector<std::size_t>& shape) {
        std::vector<View> views;
        for (const auto& [place, offset, strides] : x) views.push_back({region(place), offset, strides});
        const auto& [place, offset, strides] = y;
        p.add(make_elementwise(p, name, std::move(views), {target(place), offset, strides}, shape),
              label);
      }, nb::arg("label"), nb::arg("name"), nb::arg("x"), nb::arg("y"), nb::arg("shape"))
      .def("gather", [](Program& p, const std::string& label, const Place& table,
                        const Place& indices, const Place& y, const std::optional<Place>& scales,
                        const std::array<std::size_t, 4>& sizes, const std::string& type,
                        float scale, std::int32_t zero_point, const std::string& name) {
        std::optional<Region> rows;
        if (scales) rows = region(*scales);
        p.add(make_gather(p, region(table), region(indices), target(y), rows,
                          {sizes[0], sizes[1], sizes[2], sizes[3]}, type, scale, zero_point, name),
              label);
      }, nb::arg("label"), nb::arg("table"), nb::arg("indices"), nb::arg("y"),
         nb::arg("scales").none(), nb::arg("sizes"), nb::arg("type"), nb::arg("scale"),
         nb::arg("zero_point"), nb::arg("name"));
}
