#include "avx512.hpp"
#include "lookup_vbmi.hpp"
#include "table.hpp"

namespace {
constexpr intact::Kernels with_vbmi() {
  intact::Kernels kernels = kernels_of<Avx512, 6, 4>("avx512_vbmi");
  kernels.lookup = lookup_vbmi;
  return kernels;
}
}  // namespace

namespace intact {
extern const Kernels kAvx512Vbmi = with_vbmi();
}  // namespace intact
