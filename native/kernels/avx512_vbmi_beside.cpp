#include "avx512_beside.hpp"
#include "avx512_vbmi.hpp"
#include "beside.hpp"

namespace intact {

void product_beside_avx512_vbmi(const Multiplication& m, const Bytes& b) { product_beside<Avx512Vbmi>(m, b); }

}  // namespace intact
