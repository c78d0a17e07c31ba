#include "avx512_gelu.hpp"

#include "avx512.hpp"
#include "product_gelu.hpp"

namespace intact {

void product_gelu_avx512(const Multiplication& m, const Finish& f) { product_gelu<Avx512>(m, f); }

}  // namespace intact
