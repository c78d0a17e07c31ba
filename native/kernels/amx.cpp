// AMX: eight tiles of 16 rows of 64 bytes. Four hold sums of 32 x 32, two activations (32 rows of
// 64 values) and two weights (64 values of 2 x 16 columns), so that each loaded tile is used twice.

#include "attention_amx.hpp"
#include "avx512.hpp"
#include "avx512_vbmi.hpp"
#include "table.hpp"

namespace {

constexpr std::size_t kTileRows = 16, kTileBytes = 64;
constexpr std::size_t kRows = 2 * kTileRows, kColumns = 32;

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes[16] = {};
  std::uint8_t rows[16] = {};
};

constexpr TileConfig all_tiles_whole() {
  TileConfig config;
  for (std::size_t t = 0; t < 8; ++t) {
    config.bytes[t] = kTileBytes;
    config.rows[t] = kTileRows;
  }
  return config;
}

// Static: GCC's intrinsic tells the compiler of the first bytes only.
constexpr TileConfig kConfig = all_tiles_whole();

void begin_amx() { _tile_loadconfig(&kConfig); }

constexpr std::size_t kPanelRow = kColumns * 4;  // bytes of four values of K
constexpr std::size_t kCacheLine = 64;
constexpr std::size_t kFewRows = 2;  // which vectors multiply as fast as a tile that is nearly empty

template <bool kTwo>
void gemm_tiles(const intact::Multiplication& m) {
  _tile_zero(0);
  _tile_zero(1);
  if constexpr (kTwo) {
    _tile_zero(2);
    _tile_zero(3);
  }
  // Tiles multiply for some 64 cycles a step, in which the vector units take their share of the other
  // work: next to none of it costs time of its own.
  const std::size_t steps = m.taps * m.k / kTileBytes, share = (m.beside.parts + steps - 1) / steps;
  const std::size_t ahead = (m.next_bytes / steps + kCacheLine - 1) / kCacheLine * kCacheLine;
  const std::int8_t* weights = m.panel;
  const std::int8_t* next = m.next;
  std::size_t part = 0;
  for (std::size_t t = 0; t < m.taps; ++t) {
    const std::uint8_t* upper = m.a + m.offsets[t];
    const std::uint8_t* lower = upper + kTileRows * m.stride;
    for (std::size_t i = 0; i < m.k; i += kTileBytes) {
      _tile_loadd(4, upper + i, m.stride);
      _tile_loadd(6, weights, kPanelRow);
      _tile_dpbusd(0, 4, 6);
      _tile_loadd(7, weights + kTileBytes, kPanelRow);
      _tile_dpbusd(1, 4, 7);
      if constexpr (kTwo) {
        _tile_loadd(5, lower + i, m.stride);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
      }
      weights += kTileBytes * kColumns;
      for (std::size_t p = 0; p < ahead; p += kCacheLine) _mm_prefetch(next + p, _MM_HINT_T1);
      next += ahead;
      const std::size_t end = part + share < m.beside.parts ? part + share : m.beside.parts;
      m.beside.run(part, end);
      part = end;
    }
  }
  constexpr std::size_t kSumsRow = kColumns * sizeof(std::int32_t);
  _tile_stored(0, m.sums, kSumsRow);
  _tile_stored(1, m.sums + kTileRows, kSumsRow);
  if constexpr (kTwo) {
    _tile_stored(2, m.sums + kTileRows * kColumns, kSumsRow);
    _tile_stored(3, m.sums + kTileRows * kColumns + kTileRows, kSumsRow);
  }
}

// Rows beyond `count` are read too (scratch holds whole blocks), and their sums not used.
void gemm_amx(const intact::Multiplication& m) {
  if (m.count <= kFewRows) {
    gemm<Avx512Vbmi>(m);
  } else if (m.count > kTileRows) {
    gemm_tiles<true>(m);
  } else {
    gemm_tiles<false>(m);
  }
}

constexpr intact::Kernels with_amx() {
  intact::Kernels kernels = kernels_of<Avx512Vbmi>("amx");
  kernels.rows = kRows;
  kernels.columns = kernels.column_step = kColumns;
  kernels.k_step = kTileBytes;
  kernels.begin = begin_amx;
  kernels.gemm = gemm_amx;
  kernels.block_rows = [](std::size_t) { return kRows; };
  kernels.product = nullptr;
  kernels.product_real = nullptr;
  kernels.product_bounds = nullptr;
  kernels.winograd = nullptr;
  kernels.attention_scratch = attention_scratch_amx;
  kernels.attention = attention_amx;
  return kernels;
}

}  // namespace

namespace intact {
extern const Kernels kAmx = with_amx();
}  // namespace intact
