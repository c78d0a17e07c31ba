#include "avx512_vbmi.hpp"
#include "table.hpp"

namespace intact {
extern const Kernels kAvx512Vbmi = kernels_of<Avx512Vbmi, 6, 4>("avx512_vbmi");
}  // namespace intact
