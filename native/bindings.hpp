#pragma once

// What the files of bindings share: how Python names places in memory.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>
#include <vector>

#include "program.hpp"
#include "steps/steps.hpp"

namespace intact {

template <class T>
using Row = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
template <class T>
using Matrices =
    nanobind::ndarray<const T, nanobind::ndim<3>, nanobind::c_contig, nanobind::device::cpu>;

// (space, offset or index, bytes)
using Place = std::tuple<int, std::size_t, std::size_t>;
// place, offset, strides
using Strided = std::tuple<Place, std::size_t, std::vector<std::size_t>>;

inline Region region(const Place& place) {
  const auto& [space, offset, bytes] = place;
  require(space >= 0 && space <= 3, "a tensor lies in no known space");
  return {static_cast<Space>(space), offset, bytes};
}

// A place that a step writes to.
inline Region target(const Place& place) {
  const Region result = region(place);
  require(result.space != Space::kInput, "a step would write to an input");
  return result;
}

inline View view(const Strided& strided) {
  const auto& [place, offset, strides] = strided;
  return {region(place), offset, strides};
}

// A view that a step writes to.
inline View target_view(const Strided& strided) {
  target(std::get<0>(strided));
  return view(strided);
}

template <class T>
std::vector<T> vector(const Row<T>& row) {
  return {row.data(), row.data() + row.size()};
}

template <class T>
std::vector<T> vector(const std::optional<Row<T>>& row) {
  return row ? vector(*row) : std::vector<T>{};
}

// Recurrent networks; see bindings_recurrent.cpp.
void bind_recurrent(nanobind::module_& m, nanobind::class_<Program>& program);
// What moves, mixes and scales images; see bindings_images.cpp.
void bind_images(nanobind::class_<Program>& program);
// Ids and masks; see bindings_small.cpp.
void bind_small(nanobind::module_& m, nanobind::class_<Program>& program);

}  // namespace intact
