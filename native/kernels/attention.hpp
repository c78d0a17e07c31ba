#pragma once

// Attention of one head in float32. Scores of a few queries at a time stay in the L1 cache.

#include "../kernels.hpp"
#include "real.hpp"

namespace {

// kRows x kVectors accumulators of float32: y = a b, b [depth][columns] with rows `b_stride` apart.
template <class V, std::size_t kRows, std::size_t kVectors>
void real_block(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
                std::size_t depth, float* y, std::size_t y_stride) {
  typename V::F acc[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::broadcast(0.0f);
  }
  for (std::size_t i = 0; i < depth; ++i) {
    typename V::F row[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) row[v] = V::load(b + i * b_stride + v * V::kInts);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto x = V::broadcast(a[r * a_stride + i]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) acc[r][v] = V::fma(x, row[v], acc[r][v]);
    }
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) V::store(y + r * y_stride + v * V::kInts, acc[r][v]);
  }
}

// As real_block for `columns`, a multiple of V::kInts. Eight accumulators at least, so that no sum waits
// for itself; of many rows and columns as many as there are registers for.
template <class V, std::size_t kRows>
void real_rows(const float* a, std::size_t a_stride, const float* b, std::size_t b_stride,
               std::size_t depth, std::size_t columns, float* y, std::size_t y_stride) {
  constexpr std::size_t kVectors = V::kInts >= 16 ? 4 : 2, kTall = kRows < 4 ? kRows : 4;
  std::size_t j = 0;
  for (; j + kVectors * V::kInts <= columns; j += kVectors * V::kInts) {
    for (std::size_t r = 0; r < kRows; r += kTall) {
      real_block<V, kTall, kVectors>(a + r * a_stride, a_stride, b + j, b_stride, depth,
                                     y + r * y_stride + j, y_stride);
    }
  }
  if constexpr (kVectors == 4) {
    for (; j + 2 * V::kInts <= columns; j += 2 * V::kInts) {
      real_block<V, kRows, 2>(a, a_stride, b + j, b_stride, depth, y + j, y_stride);
    }
  }
  for (; j < columns; j += V::kInts) {
    real_block<V, kRows, 1>(a, a_stride, b + j, b_stride, depth, y + j, y_stride);
  }
}

constexpr std::size_t kQueries = 8;

// y[i][j] = x[j][i] * scale for 4 x 4 values.
inline void transpose4(const float* x, std::size_t x_stride, float scale, float* y,
                       std::size_t stride) {
  typedef float Four __attribute__((vector_size(16), aligned(4)));
  Four r[4];
  for (std::size_t j = 0; j < 4; ++j) {
    __builtin_memcpy(&r[j], x + j * x_stride, 16);
    r[j] *= scale;
  }
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define INTACT_SHUFFLES
#endif
#endif
#ifdef INTACT_SHUFFLES
  const Four a = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
  const Four b = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
  const Four c = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
  const Four d = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
  const Four out[4] = {
      __builtin_shufflevector(a, c, 0, 1, 4, 5), __builtin_shufflevector(a, c, 2, 3, 6, 7),
      __builtin_shufflevector(b, d, 0, 1, 4, 5), __builtin_shufflevector(b, d, 2, 3, 6, 7)};
#else
  Four out[4];
  for (std::size_t i = 0; i < 4; ++i) out[i] = Four{r[0][i], r[1][i], r[2][i], r[3][i]};
#endif
  for (std::size_t i = 0; i < 4; ++i) __builtin_memcpy(y + i * stride, &out[i], 16);
}

// keys_t[width][keys] from the keys of the head, times its scale; zeros beyond them.
inline void transpose_keys(const intact::Attention& a, std::size_t keys, float* keys_t) {
  const std::size_t whole_keys = a.keys / 4 * 4, whole_width = a.width / 4 * 4;
  for (std::size_t j = 0; j < whole_keys; j += 4) {
    for (std::size_t i = 0; i < whole_width; i += 4) {
      transpose4(a.k + j * a.k_stride + i, a.k_stride, a.scale, keys_t + i * keys + j, keys);
    }
  }
  for (std::size_t i = 0; i < a.width; ++i) {
    for (std::size_t j = i < whole_width ? whole_keys : 0; j < keys; ++j) {
      keys_t[i * keys + j] = j < a.keys ? a.k[j * a.k_stride + i] * a.scale : 0.0f;
    }
  }
}

inline std::size_t attention_scratch(const intact::Attention& a) {
  const std::size_t keys = (a.keys + 15) / 16 * 16, v_width = (a.v_width + 15) / 16 * 16;
  return a.width * keys + a.keys * v_width + kQueries * (keys + v_width);
}

// y = e**(y - greatest) of a row of scores; returns one divided by their sum, or what makes a row of
// -infinity NaN or zeros.
template <class V>
float powers_of_row(float* y, std::size_t size, bool empty_is_zero) {
  const float high = greatest<V>(y, size);
  if (high == -__builtin_inff()) {
    std::memset(y, 0, size * sizeof(float));
    return empty_is_zero ? 0.0f : __builtin_nanf("");
  }
  const auto most = V::broadcast(high);
  const auto power = [&](typename V::F score) {
    return power_to_126<V>(V::mul(V::sub(score, most), V::broadcast(kLog2E)));
  };
  auto sum = V::broadcast(0.0f);
  std::size_t i = 0;
  for (; i + V::kInts <= size; i += V::kInts) {
    const auto e = power(V::load(y + i));
    V::store(y + i, e);
    sum = V::add(sum, e);
  }
  float all = V::sum(sum);
  if (i < size) {
    const std::size_t n = size - i;
    V::store(y + i, power(V::load(y + i, n)), n);
    for (; i < size; ++i) all += y[i];
  }
  return 1.0f / all;
}

// The uint8 of `count` rows of y from `first` on, where they are wanted.
template <class V>
void bytes_of_rows(const intact::Attention& a, std::size_t first, std::size_t count) {
  if (!a.bytes) return;
  for (std::size_t at = first * a.y_stride; count > 0; --count, at += a.y_stride) {
    quantize<V>(a.y + at, a.v_width, a.q_scale, a.q_zero_point, false, a.bytes + at);
  }
}

// Where the operands of a head lie, in the layout that products read.
struct Head {
  std::size_t keys, v_width;  // whole vectors
  const float *keys_t, *v;
  std::size_t v_stride;
  float *scores, *rows;  // [kQueries][keys], [kQueries][v_width]
};

// kRows queries from number q on.
template <class V, std::size_t kRows>
void attention_rows(const intact::Attention& a, const Head& h, std::size_t q) {
  real_rows<V, kRows>(a.q + q * a.q_stride, a.q_stride, h.keys_t, h.keys, a.width, h.keys, h.scores,
                      h.keys);
  float factors[kRows];
  for (std::size_t r = 0; r < kRows; ++r) {
    float* row = h.scores + r * h.keys;
    if (a.mask) add_real<V>(row, a.mask + (q + r) * a.mask_stride, row, a.keys);
    factors[r] = powers_of_row<V>(row, a.keys, a.empty_is_zero);
  }
  real_rows<V, kRows>(h.scores, h.keys, h.v, h.v_stride, a.keys, h.v_width, h.rows, h.v_width);
  for (std::size_t r = 0; r < kRows; ++r) {
    const auto factor = V::broadcast(factors[r]);
    float* y = a.y + (q + r) * a.y_stride;
    for (std::size_t i = 0; i < a.v_width; i += V::kInts) {
      const std::size_t n = a.v_width - i < V::kInts ? a.v_width - i : V::kInts;
      V::store(y + i, V::mul(V::load(h.rows + r * h.v_width + i), factor), n);
    }
  }
  bytes_of_rows<V>(a, q, kRows);
}

template <class V, std::size_t kRows>
void attention_from(const intact::Attention& a, const Head& h, std::size_t q) {
  for (; q + kRows <= a.queries; q += kRows) attention_rows<V, kRows>(a, h, q);
  if constexpr (kRows > 1) attention_from<V, kRows / 2>(a, h, q);
}

template <class V>
void attention(const intact::Attention& a, float* scratch) {
  const std::size_t keys = (a.keys + 15) / 16 * 16, v_width = (a.v_width + 15) / 16 * 16;
  float* keys_t = scratch;                    // [width][keys]
  float* values = keys_t + a.width * keys;    // [a.keys][v_width]
  float* scores = values + a.keys * v_width;
  Head h{keys, v_width, keys_t, a.v, a.v_stride, scores, scores + kQueries * keys};
  transpose_keys(a, keys, keys_t);
  // Values lie as they are needed, unless they are no whole vectors.
  if (v_width != a.v_width) {
    for (std::size_t j = 0; j < a.keys; ++j) {
      for (std::size_t i = 0; i < v_width; ++i) {
        values[j * v_width + i] = i < a.v_width ? a.v[j * a.v_stride + i] : 0.0f;
      }
    }
    h.v = values;
    h.v_stride = v_width;
  }
  attention_from<V, kQueries>(a, h, 0);
}

}  // namespace
