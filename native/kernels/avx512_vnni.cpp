#include "avx512.hpp"
#include "table.hpp"

namespace intact {
extern const Kernels kAvx512Vnni = kernels_of<Avx512>("avx512_vnni");
}  // namespace intact
