#include "avx2.hpp"
#include "table.hpp"

namespace intact {
extern const Kernels kAvx2 = kernels_of<Avx2>("avx2");
}  // namespace intact
