#include "avx512.hpp"
#include "attention_pairs.hpp"

namespace intact {
extern const Kernels kAvx512Vnni = with_pairs<Avx512>("avx512_vnni");
}  // namespace intact
