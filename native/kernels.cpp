#include "kernels.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace intact {

#ifdef INTACT_X86
extern const Kernels kAmx, kAvx512Vbmi, kAvx512Vnni, kAvxVnni, kAvx2;
#endif
extern const Kernels kPortable;

namespace {

#ifdef INTACT_X86
// AMX's registers are large, so Linux gives them to a process that asks.
[[maybe_unused]] bool amx_granted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

[[maybe_unused]] bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  constexpr unsigned kBfloat16 = 1u << 22, kTile = 1u << 24, kInt8 = 1u << 25;
  return (d & kBfloat16) && (d & kTile) && (d & kInt8) && amx_granted();
}

[[maybe_unused]] bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  __asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(1));
  return a & (1u << 4);
}
#endif

// Best first.
std::vector<const Kernels*> find_kernels() {
  std::vector<const Kernels*> found;
#ifdef INTACT_X86
  __builtin_cpu_init();
  const bool vnni = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                    __builtin_cpu_supports("avx512vnni");
  const bool vbmi = vnni && __builtin_cpu_supports("avx512vbmi");
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const auto add = [&](bool there, const Kernels& kernels) {
    if (there) found.push_back(&kernels);
  };
#ifdef INTACT_HAS_AMX
  add(vbmi && has_amx(), kAmx);
#endif
#ifdef INTACT_HAS_AVX512_VBMI
  add(vbmi, kAvx512Vbmi);
#endif
#ifdef INTACT_HAS_AVX512_VNNI
  add(vnni, kAvx512Vnni);
#endif
#ifdef INTACT_HAS_AVX_VNNI
  add(avx2 && has_avx_vnni(), kAvxVnni);
#endif
#ifdef INTACT_HAS_AVX2
  add(avx2, kAvx2);
#endif
#endif
  found.push_back(&kPortable);
  return found;
}

const std::vector<const Kernels*>& all_kernels() {
  static const std::vector<const Kernels*> found = find_kernels();
  return found;
}

}  // namespace

const Kernels& select_kernels(const char* name) {
  if (*name == '\0') return *all_kernels().front();
  for (const Kernels* kernels : all_kernels()) {
    if (std::strcmp(kernels->name, name) == 0) return *kernels;
  }
  std::string message = "the instruction set '" + std::string(name) + "' is unknown or not this CPU's; it has";
  for (const Kernels* kernels : all_kernels()) message += std::string(" ") + kernels->name;
  throw std::invalid_argument(message);
}

std::vector<const char*> available_kernels() {
  std::vector<const char*> names;
  for (const Kernels* kernels : all_kernels()) names.push_back(kernels->name);
  return names;
}

namespace {
std::size_t round_up(std::size_t x, std::size_t step) { return (x + step - 1) / step * step; }
}  // namespace

Movement movement_of(const Applied& function) {
  switch (function.function) {
    case Unary::kNone:
    case Unary::kClip:
    case Unary::kRelu:
    case Unary::kSigmoid:
    case Unary::kTanh: return {Course::kRising};
    // Where the derivatives are zero.
    case Unary::kSwish: return {Course::kTurning, -1.2784645f};
    case Unary::kHardSwish: return {Course::kTurning, -1.5f};
    case Unary::kGelu: return {Course::kTurning, -0.75179152f};
    default: return {Course::kOther};
  }
}

bool ends_in_registers(const Applied& function, bool added) {
  switch (function.function) {
    case Unary::kNone: return true;
    // Taken for the clamp that follows.
    case Unary::kRelu:
    case Unary::kClip: return !added;
    default: return false;
  }
}

std::size_t panels_of(const Kernels& kernels, std::size_t n) {
  return (n + kernels.columns - 1) / kernels.columns;
}

Panel panel_of(const Kernels& kernels, std::size_t n, std::size_t panel) {
  const std::size_t first = panel * kernels.columns, left = n - first;
  return {first, left < kernels.columns ? round_up(left, kernels.column_step) : kernels.columns};
}

std::size_t packed_size(const Kernels& kernels, std::size_t k, std::size_t n) {
  return round_up(k, kernels.k_step) * round_up(n, kernels.column_step);
}

void pack(const Kernels& kernels, const std::int8_t* w, std::size_t k, std::size_t n,
          std::int8_t* packed) {
  const std::size_t padded = round_up(k, kernels.k_step);
  const std::vector<std::int8_t> zeros(kernels.columns);
  for (std::size_t p = 0; p < panels_of(kernels, n); ++p) {
    const auto [first, columns] = panel_of(kernels, n, p);
    const std::size_t count = std::min(columns, n - first);
    std::int8_t* panel = packed + first * padded;
    for (std::size_t i = 0; i < padded; i += 4) {
      const std::int8_t* rows[4];
      for (std::size_t r = 0; r < 4; ++r) {
        rows[r] = i + r < k ? w + (i + r) * n + first : zeros.data();
      }
      std::int8_t* to = panel + i * columns;
      for (std::size_t j = 0; j < count; ++j) {
        for (std::size_t r = 0; r < 4; ++r) to[4 * j + r] = rows[r][j];
      }
      std::memset(to + 4 * count, 0, 4 * (columns - count));
    }
  }
}

void reorder(const std::int8_t* w, std::size_t n, std::size_t channels, std::size_t taps,
             std::int8_t* to) {
  constexpr std::size_t kBlock = 64;  // rows of both sides stay in the L1 cache
  const std::size_t k = channels * taps;
  for (std::size_t first = 0; first < n; first += kBlock) {
    const std::size_t last = std::min(n, first + kBlock);
    for (std::size_t i = 0; i < k; ++i) {
      std::int8_t* row = to + (i % taps * channels + i / taps) * n;
      for (std::size_t j = first; j < last; ++j) row[j] = w[j * k + i];
    }
  }
}

void column_sums(const std::int8_t* w, std::size_t k, std::size_t n, std::int32_t* sums) {
  std::memset(sums, 0, n * sizeof(std::int32_t));
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j < n; ++j) sums[j] += w[i * n + j];
  }
}

std::size_t packed_depthwise_size(const Kernels& kernels, std::size_t kernel_h,
                                  std::size_t kernel_w, std::size_t channels) {
  return round_up(channels, kernels.lanes) * kernel_w * round_up(kernel_h, 4);
}

std::size_t depthwise_lanes(const Kernels& kernels, std::size_t channels, std::size_t first) {
  return channels - first <= kernels.half_lanes ? kernels.half_lanes : kernels.lanes;
}

std::size_t depthwise_order(std::size_t lanes, std::size_t position) {
  const std::size_t vector = position / (lanes / 4), lane = position % (lanes / 4);
  return lane / 4 * 16 + vector * 4 + lane % 4;
}

void pack_depthwise(const Kernels& kernels, const std::int8_t* w, std::size_t kernel_h,
                    std::size_t kernel_w, std::size_t channels, std::int8_t* packed) {
  const std::size_t groups = (kernel_h + 3) / 4;
  std::memset(packed, 0, packed_depthwise_size(kernels, kernel_h, kernel_w, channels));
  for (std::size_t first = 0; first < channels; first += kernels.lanes) {
    const std::size_t lanes = depthwise_lanes(kernels, channels, first);
    std::int8_t* block = packed + first * kernel_w * groups * 4;
    for (std::size_t column = 0; column < kernel_w; ++column) {
      for (std::size_t row = 0; row < kernel_h; ++row) {
        for (std::size_t p = 0; p < lanes; ++p) {
          const std::size_t channel = first + depthwise_order(lanes, p);
          if (channel >= channels) continue;
          block[((column * groups + row / 4) * lanes + p) * 4 + row % 4] =
              w[(row * kernel_w + column) * channels + channel];
        }
      }
    }
  }
}

std::size_t depthwise_scratch(const Kernels& kernels, const Depthwise& d) {
  const std::size_t width = (d.out_width - 1) * d.stride_w + (d.kernel_w - 1) * d.dilation_w + 1;
  const std::size_t sums = d.out_width * kernels.depthwise_lines(d), padding = d.width * d.channels + kSlack;
  return padding + (width * ((d.kernel_h + 3) / 4) + 2 * sums) * 4 * kernels.lanes;
}

}  // namespace intact
