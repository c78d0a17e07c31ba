#include "avx512_beside.hpp"

#include "avx512.hpp"
#include "beside.hpp"

namespace intact {

void product_beside_avx512(const Multiplication& m, const Bytes& b) { product_beside<Avx512>(m, b); }
void product_gelu_avx512(const Multiplication& m, const Finish& f) { product_gelu<Avx512>(m, f); }

}  // namespace intact
