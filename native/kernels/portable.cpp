#include "portable.hpp"
#include "table.hpp"

namespace intact {
extern const Kernels kPortable = kernels_of<Portable>("portable");
}  // namespace intact
