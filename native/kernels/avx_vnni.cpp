#include "avx2.hpp"
#include "table.hpp"

namespace intact {
extern const Kernels kAvxVnni = kernels_of<AvxVnni>("avx_vnni");
}  // namespace intact
