#include "avx512.hpp"
#include "avx512_table.hpp"

namespace intact {
extern const Kernels kAvx512Vnni = kernels_of_avx512<Avx512>("avx512_vnni");
}  // namespace intact
