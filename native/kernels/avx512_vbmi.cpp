#include "avx512_vbmi.hpp"
#include "table.hpp"

namespace intact {
extern const Kernels kAvx512Vbmi = kernels_of<Avx512Vbmi>("avx512_vbmi");
}  // namespace intact
