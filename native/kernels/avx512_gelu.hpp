#pragma once

#include "../kernels.hpp"

namespace intact {

// Of kernels for AVX-512; see Kernels::product_gelu.
void product_gelu_avx512(const Multiplication& m, const Finish& f);

}  // namespace intact
