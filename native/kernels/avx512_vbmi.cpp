#include "avx512_vbmi.hpp"
#include "avx512_table.hpp"

namespace intact {
extern const Kernels kAvx512Vbmi = kernels_of_avx512<Avx512Vbmi>("avx512_vbmi");
}  // namespace intact
