// The steps for ids and masks, as methods of Program.

#include <nanobind/stl/array.h>

#include <array>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "bindings.hpp"

namespace nb = nanobind;
using namespace intact;

namespace {

using Weights = nb::ndarray<const std::int8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Stored = nb::ndarray<const std::int8_t, nb::ndim<4>, nb::c_contig, nb::device::cpu>;
using Sums = nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>;
using Reordered = nb::ndarray<nb::numpy, std::int8_t, nb::ndim<3>>;

// An array of numpy that owns the values.
template <class Array, class T>
Array owned(std::vector<T>&& values, std::initializer_list<std::size_t> shape) {
  auto held = std::make_unique<std::vector<T>>(std::move(values));
  T* data = held->data();
  const nb::capsule owner(held.get(), [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  held.release();
  return Array(data, shape, owner);
}

// Of each column of weights [groups, K, N].
Sums column_sums_of(const Weights& weights) {
  const std::size_t groups = weights.shape(0), k = weights.shape(1), n = weights.shape(2);
  require(k < (std::size_t{1} << 24), "weights have too many rows");
  std::vector<std::int32_t> sums(groups * n);
  for (std::size_t g = 0; g < groups; ++g) {
    column_sums(weights.data() + g * k * n, k, n, sums.data() + g * n);
  }
  return owned<Sums>(std::move(sums), {groups * n});
}

// Weights [groups, N, channels, taps] as [groups, taps * channels, N].
Reordered reordered(const Stored& weights) {
  const std::size_t groups = weights.shape(0), n = weights.shape(1);
  const std::size_t channels = weights.shape(2), taps = weights.shape(3);
  const std::size_t size = times(times(channels, taps), n);
  std::vector<std::int8_t> to(times(groups, size));
  for (std::size_t g = 0; g < groups; ++g) {
    reorder(weights.data() + g * size, n, channels, taps, to.data() + g * size);
  }
  return owned<Reordered>(std::move(to), {groups, channels * taps, n});
}

// As in bindings.cpp: (space, offset or index, bytes); and (place, offset, strides).

}  // namespace

void intact::bind_small(nb::module_& m, nb::class_<Program>& program) {
  m.def("column_sums", &column_sums_of, nb::arg("weights"), "The sums of weights [groups, K, N] over K.");
  m.def("reordered", &reordered, nb::arg("weights"),
        "Weights [groups, N, channels, taps] as [groups, taps * channels, N].");
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
         nb::arg("zero_point"), nb::arg("name"))
      .def("running_sum", [](Program& p, const std::string& label, const Place& x, const Place& y,
                             const std::array<std::size_t, 3>& sizes, bool whole) {
        p.add(make_running_sum(p, region(x), target(y), sizes[0], sizes[1], sizes[2], whole), label);
      }, nb::arg("label"), nb::arg("x"), nb::arg("y"), nb::arg("sizes"), nb::arg("whole"));
}
