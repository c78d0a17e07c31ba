#pragma once

#include "../kernels.hpp"

namespace intact {

// For AVX-512; see beside.hpp, and Kernels.
bool finishes_beside_avx512(const Multiplication& m, const Bytes& b);
void product_beside_avx512(const Multiplication& m, const Bytes& b);
void product_gelu_avx512(const Multiplication& m, const Finish& f);

}  // namespace intact
