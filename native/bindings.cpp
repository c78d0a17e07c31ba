// The Python face of the native part: intact._native.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cmath>
#include <memory>
#include <vector>

#include "histogram.hpp"

namespace nb = nanobind;

namespace {

using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Counts = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<1>>;

nb::tuple describe(const Floats& values) {
  if (values.size() == 0) throw nb::value_error("there are no values to describe");
  intact::Description found;
  {
    nb::gil_scoped_release unlocked;
    found = intact::describe(values.data(), values.size());
  }
  auto counts = std::make_unique<std::vector<std::int64_t>>(std::move(found.counts));
  std::int64_t* data = counts->data();
  const std::size_t size = counts->size();
  nb::capsule owner(counts.release(), [](void* p) noexcept {
    delete static_cast<std::vector<std::int64_t>*>(p);
  });
  return nb::make_tuple(found.low, found.high, found.exponent, found.first,
                        Counts(data, {size}, owner));
}

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Kernels of intact, compiled.";
  m.def("describe", &describe, nb::arg("values"),
        "Minimum, maximum, bin exponent, first bin and bin counts of finite float32 values.");
}
