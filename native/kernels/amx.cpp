// AMX: eight tiles of 16 rows of 64 bytes. Four hold sums of 32 x 32, two activations (32 rows of
// 64 values) and two weights (64 values of 2 x 16 columns), so that each loaded tile is used twice.

#include "avx512.hpp"
#include "lookup_vbmi.hpp"
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

// Rows beyond `count` are read too (scratch holds whole blocks), and their sums not used.
void gemm_amx(const std::uint8_t* a, std::size_t stride, std::size_t count,
              const std::int8_t* panel, std::size_t k, std::int32_t* sums) {
  constexpr std::size_t kPanelRow = kColumns * 4;  // bytes of four values of K
  const bool two = count > kTileRows;
  const std::uint8_t* lower = a + kTileRows * stride;
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  if (two) {
    for (std::size_t i = 0; i < k; i += kTileBytes) {
      const std::int8_t* weights = panel + i * kColumns;
      _tile_loadd(4, a + i, stride);
      _tile_loadd(6, weights, kPanelRow);
      _tile_loadd(7, weights + kTileBytes, kPanelRow);
      _tile_loadd(5, lower + i, stride);
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    }
  } else {
    for (std::size_t i = 0; i < k; i += kTileBytes) {
      const std::int8_t* weights = panel + i * kColumns;
      _tile_loadd(4, a + i, stride);
      _tile_loadd(6, weights, kPanelRow);
      _tile_loadd(7, weights + kTileBytes, kPanelRow);
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
    }
  }
  constexpr std::size_t kSumsRow = kColumns * sizeof(std::int32_t);
  _tile_stored(0, sums, kSumsRow);
  _tile_stored(1, sums + kTileRows, kSumsRow);
  if (two) {
    _tile_stored(2, sums + kTileRows * kColumns, kSumsRow);
    _tile_stored(3, sums + kTileRows * kColumns + kTileRows, kSumsRow);
  }
}

constexpr intact::Kernels with_amx() {
  intact::Kernels kernels = kernels_of<Avx512, 6, 2>("amx");
  kernels.rows = kRows;
  kernels.k_step = kTileBytes;
  kernels.begin = begin_amx;
  kernels.gemm = gemm_amx;
  kernels.lookup = lookup_vbmi;
  return kernels;
}

}  // namespace

namespace intact {
extern const Kernels kAmx = with_amx();
}  // namespace intact
