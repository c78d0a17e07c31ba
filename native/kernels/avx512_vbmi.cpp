#include "avx512_vbmi.hpp"
#include "attention_pairs.hpp"

namespace intact {
extern const Kernels kAvx512Vbmi = with_pairs<Avx512Vbmi>("avx512_vbmi");
}  // namespace intact
