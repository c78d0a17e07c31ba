#pragma once

// 3x3 convolutions by Winograd's F(4x4, 3x3): 36 products of 16 bits for a tile of 4x4 outputs and 6x6 inputs,
// instead of 144 of 8 bits (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015,
// section 4.3, whose matrices B, G and A these are). With u8 inputs and s8 weights everything is exact: the
// rows of G are multiplied by 24, or as little as makes them whole, so that weights become at most
// 49 * 128 and inputs 100 * 255, and the sums, modulo 2**32, are those of the convolution times 9 * 2**s.
// 9 has an inverse modulo 2**32, and a sum below kMostWinogradSum fits what s leaves.
//
// At the edges tiles may have two outputs along an axis, F(2, 3), by four of the six points: their weights
// are the same.

#include <array>

#include "gemm.hpp"

namespace {

using intact::kTileInputs, intact::kTilePoints, intact::TileKind;

constexpr std::size_t kTileVectors = 2;  // of columns, at most; V::kTileRows tiles are multiplied by them at a time
constexpr std::int32_t kInverseOf9 = 0x38e38e39;

template <class V>
typename V::B twice16(typename V::B v) { return V::add16(v, v); }
template <class V>
typename V::I twice(typename V::I v) { return V::add(v, v); }

// Along an axis: where its points are among the six, what inputs become there (B^T x), and outputs of what
// the points became, in multiples of 3 * 2**kShift (of A^T m).
struct LongAxis {
  static constexpr std::size_t kInputs = 6, kOutputs = 4;
  static constexpr std::size_t kPoints[] = {0, 1, 2, 3, 4, 5};
  static constexpr int kShift[] = {3, 2, 1, 1};

  // At most 10 times as large.
  template <class V>
  [[gnu::always_inline]] static void input(const typename V::B (&x)[6], typename V::B (&y)[6]) {
    using B = typename V::B;
    const B even = V::sub16(x[4], V::template shift16<2>(x[2])), odd = V::sub16(x[3], V::template shift16<2>(x[1]));
    const B across = V::sub16(x[4], x[2]), along = twice16<V>(V::sub16(x[3], x[1]));
    y[0] = V::add16(V::template shift16<2>(V::sub16(x[0], x[2])), across);
    y[1] = V::add16(even, odd);
    y[2] = V::sub16(even, odd);
    y[3] = V::add16(across, along);
    y[4] = V::sub16(across, along);
    y[5] = V::sub16(V::sub16(x[5], x[3]), twice16<V>(along));
  }
  template <class V>
  [[gnu::always_inline]] static void output(const typename V::I (&m)[6], typename V::I (&y)[4]) {
    using I = typename V::I;
    const I sum = V::add(m[1], m[2]), difference = V::sub(m[1], m[2]);
    const I far_sum = V::add(m[3], m[4]), far_difference = V::sub(m[3], m[4]);
    y[0] = V::add(V::sub(m[0], V::template shift_left<2>(sum)), far_sum);
    y[1] = V::sub(far_difference, twice<V>(difference));
    y[2] = V::sub(far_sum, sum);
    y[3] = V::add(V::sub(twice<V>(far_difference), difference), m[5]);
  }
};
struct ShortAxis {
  static constexpr std::size_t kInputs = 4, kOutputs = 2;
  static constexpr std::size_t kPoints[] = {0, 1, 2, 5};
  static constexpr int kShift[] = {1, 1};

  template <class V>
  [[gnu::always_inline]] static void input(const typename V::B (&x)[4], typename V::B (&y)[4]) {
    y[0] = V::sub16(x[0], x[2]);
    y[1] = V::add16(x[1], x[2]);
    y[2] = V::sub16(x[2], x[1]);
    y[3] = V::sub16(x[3], x[1]);
  }
  template <class V>
  [[gnu::always_inline]] static void output(const typename V::I (&m)[4], typename V::I (&y)[2]) {
    const auto thrice = [](typename V::I v) INTACT_INLINE { return V::add(twice<V>(v), v); };
    y[0] = V::add(m[0], thrice(V::add(m[1], m[2])));
    y[1] = V::add(m[3], thrice(V::sub(m[1], m[2])));
  }
};

// Calls use(down, across) with the axes of a kind of tile.
template <class Use>
void with_axes(TileKind kind, const Use& use) {
  switch (kind) {
    case TileKind::kNarrow: return use(LongAxis(), ShortAxis());
    case TileKind::kWhole: return use(LongAxis(), LongAxis());
    case TileKind::kFlat: return use(ShortAxis(), LongAxis());
    default: return use(ShortAxis(), ShortAxis());
  }
}

// Multiples of G w: of three weights. At most 7 times as large.
template <class V>
[[gnu::always_inline]] inline void tile_weights(const typename V::B (&w)[3], typename V::B (&y)[kTileInputs]) {
  using B = typename V::B;
  const B ends = V::add16(w[0], w[2]), twice = twice16<V>(w[1]), six = V::broadcast_words(6);
  const B far = V::add16(w[0], V::template shift16<2>(w[2]));
  y[0] = V::mul16(w[0], six);
  y[1] = V::add16(ends, w[1]);
  y[2] = V::sub16(ends, w[1]);
  y[3] = V::add16(far, twice);
  y[4] = V::sub16(far, twice);
  y[5] = V::mul16(w[2], six);
}

// Places of what tiles are computed by. Channels go by blocks of as many as fit a vector as int16, and of each
// block lie together: inputs as [36][tiles][block], weights as [36][block / 2][columns][2], and a bit, so that
// the points do not fall into the same sets of a cache. Products lie as [tile][36][columns].
template <class V>
struct TileLayout {
  static constexpr std::size_t kChannels = V::kBytes / 2;
  template <std::size_t kVectors>
  static constexpr std::size_t kWeightsPoint = kChannels * kVectors * V::kInts + kChannels;
  template <std::size_t kVectors>
  static constexpr std::size_t kWeightsBlock = kTilePoints * kWeightsPoint<kVectors>;
};

template <class V, std::size_t kVectors>
void winograd_weights(const intact::TileWeights& weights, std::int16_t* u) {
  using B = typename V::B;
  using Layout = TileLayout<V>;
  constexpr std::size_t kPoint = Layout::template kWeightsPoint<kVectors>;
  const std::size_t tap = weights.tap, quad = 4 * weights.panel_columns;
  const std::int8_t* panel = weights.first;
  const auto pairs = [&](const std::int8_t* w, std::int16_t* to, auto which) INTACT_INLINE {
    B lines[3][kTileInputs];  // of each column
    for_each_index<3>([&](auto j) INTACT_INLINE {
      const B column[3] = {V::template pairs<which>(V::load_bytes(w + j * tap)),
                           V::template pairs<which>(V::load_bytes(w + (3 + j) * tap)),
                           V::template pairs<which>(V::load_bytes(w + (6 + j) * tap))};
      tile_weights<V>(column, lines[j]);
    });
    for_each_index<kTileInputs>([&](auto i) INTACT_INLINE {
      const B line[3] = {lines[0][i], lines[1][i], lines[2][i]};
      B points[kTileInputs];
      tile_weights<V>(line, points);
      for_each_index<kTileInputs>([&](auto j) INTACT_INLINE {
        V::store_bytes(to + (i * kTileInputs + j) * kPoint, points[j]);
      });
    });
  };
  for (std::size_t block = 0; block < weights.channels;
       block += Layout::kChannels, u += Layout::template kWeightsBlock<kVectors>) {
    std::int16_t* to = u;
    for (std::size_t c = 0; c < Layout::kChannels; c += 4, panel += quad, to += 4 * kVectors * V::kInts) {
      for (std::size_t v = 0; v < kVectors; ++v) {
        pairs(panel + 4 * v * V::kInts, to + 2 * v * V::kInts, std::integral_constant<std::size_t, 0>());
        pairs(panel + 4 * v * V::kInts, to + 2 * (kVectors + v) * V::kInts, std::integral_constant<std::size_t, 1>());
      }
    }
  }
}

template <class V, class Down, class Across>
void tile_input(const std::uint8_t* x, std::size_t line, std::size_t pixel, std::size_t channels,
                std::size_t point, std::int16_t* v) {
  using B = typename V::B;
  using Layout = TileLayout<V>;
  constexpr std::size_t kDown = Down::kInputs, kAcross = Across::kInputs;
  const std::uint8_t* rows[kDown];
  for (std::size_t i = 0; i < kDown; ++i) rows[i] = x + i * line;
  for (std::size_t c = 0; c < channels; c += Layout::kChannels, v += kTilePoints * point) {
    // In memory: more than there are registers.
    alignas(V::kBytes) std::int16_t columns[kDown][kAcross][Layout::kChannels];
    std::size_t at = c;
    for_each_index<kAcross>([&](auto j) INTACT_INLINE {
      B column[kDown], points[kDown];
      for_each_index<kDown>([&](auto i) INTACT_INLINE { column[i] = V::words_of(rows[i] + at); });
      at += pixel;
      Down::template input<V>(column, points);
      for_each_index<kDown>([&](auto i) INTACT_INLINE { V::store_bytes(columns[i][j], points[i]); });
    });
    asm volatile("" : : "r"(columns) : "memory");
    for_each_index<kDown>([&](auto i) INTACT_INLINE {
      B of_line[kAcross], points[kAcross];
      for_each_index<kAcross>([&](auto j) INTACT_INLINE { of_line[j] = V::load_bytes(columns[i][j]); });
      Across::template input<V>(of_line, points);
      std::int16_t* to = v + Down::kPoints[i] * kTileInputs * point;
      for_each_index<kAcross>([&](auto j) INTACT_INLINE {
        if constexpr (j > 0) to += (Across::kPoints[j] - Across::kPoints[j - 1]) * point;
        V::store_bytes(to, points[j]);
      });
    });
  }
}

template <class V>
void winograd_input(const std::uint8_t* x, std::size_t line, std::size_t pixel, std::size_t channels,
                    TileKind kind, std::size_t point, std::int16_t* v) {
  with_axes(kind, [&]<class Down, class Across>(Down, Across) {
    tile_input<V, Down, Across>(x, line, pixel, channels, point, v);
  });
}

// Packed weights that are read into the cache while others are multiplied, a few pieces at a time.
template <class V>
struct PiecesAhead {
  static constexpr std::size_t kLine = 64, kTaps = 9;
  const intact::TileWeights& of;
  const std::int8_t* at;
  std::size_t taps, channels;  // that are left, and of this tap
  std::size_t each;            // pieces at a time

  PiecesAhead(const intact::TileWeights& of, std::size_t times)
      : of(of), at(of.first), taps(of.first ? kTaps : 0), channels(of.channels),
        each((kTaps * of.channels / 4 + times - 1) / times) {}
  [[gnu::always_inline]] void read() {
    for (std::size_t piece = 0; piece < each && taps > 0; ++piece) {
      for (std::size_t i = 0; i < 4 * of.columns; i += kLine) V::prefetch(at + i);
      at += 4 * of.panel_columns;
      channels -= 4;
      if (channels > 0) continue;
      channels = of.channels;
      at = of.first + (kTaps - --taps) * of.tap;
    }
  }
};

// kRows tiles of one point, beginning at what products are, or at zero.
template <class V, std::size_t kVectors, std::size_t kRows>
[[gnu::noinline]] void winograd_block(const intact::TileProduct& p, const std::int16_t* v, const std::int16_t* u,
                                      std::int32_t* m, PiecesAhead<V>& ahead) {
  using Layout = TileLayout<V>;
  constexpr std::size_t kTile = kTilePoints * kVectors * V::kInts;
  typename V::I acc[kRows][kVectors];
  for_each_index<kRows>([&](auto r) INTACT_INLINE {
    for_each_index<kVectors>([&](auto i) INTACT_INLINE { acc[r][i] = V::zero(); });
  });
  if (p.continued) {
    for_each_index<kRows>([&](auto r) INTACT_INLINE {
      for_each_index<kVectors>([&](auto i) INTACT_INLINE { acc[r][i] = V::load(m + r * kTile + i * V::kInts); });
    });
  }
  for (std::size_t block = 0; block < p.channels; block += Layout::kChannels) {
    const std::int16_t *x = v, *w = u;
    ahead.read();
#pragma GCC unroll 4
    for (std::size_t c = 0; c < Layout::kChannels; c += 2, x += 2, w += 2 * kVectors * V::kInts) {
      typename V::B weights[kVectors];
      for_each_index<kVectors>([&](auto i) INTACT_INLINE { weights[i] = V::load_bytes(w + 2 * i * V::kInts); });
      for_each_index<kRows>([&](auto r) INTACT_INLINE {
        const typename V::B pair = V::broadcast4(reinterpret_cast<const std::uint8_t*>(x + r * Layout::kChannels));
        for_each_index<kVectors>([&](auto i) INTACT_INLINE { acc[r][i] = V::dot2(acc[r][i], pair, weights[i]); });
      });
    }
    v += kTilePoints * p.point;
    u += Layout::template kWeightsBlock<kVectors>;
  }
  for_each_index<kRows>([&](auto r) INTACT_INLINE {
    for_each_index<kVectors>([&](auto i) INTACT_INLINE { V::store(m + r * kTile + i * V::kInts, acc[r][i]); });
  });
}

template <class V, std::size_t kVectors>
void winograd_product(const intact::TileProduct& p) {
  using Layout = TileLayout<V>;
  using Block = void (*)(const intact::TileProduct&, const std::int16_t*, const std::int16_t*, std::int32_t*,
                         PiecesAhead<V>&);
  constexpr auto kBlocks = []<std::size_t... kRows>(std::index_sequence<kRows...>) {
    return std::array<Block, V::kTileRows>{&winograd_block<V, kVectors, kRows + 1>...};
  }(std::make_index_sequence<V::kTileRows>());
  constexpr std::size_t kTile = kTilePoints * kVectors * V::kInts;
  const std::size_t tall = p.narrow + p.whole, all = tall + p.flat + p.small;
  // use(first, end) of each point's tiles: points 3 and 4 are of long axes alone.
  const auto each_point = [&](const auto& use) {
    const auto far = [](std::size_t i) { return i == 3 || i == 4; };
    for (std::size_t point = 0; point < kTilePoints; ++point) {
      const bool across = far(point % kTileInputs);
      use(point, across ? p.narrow : 0, far(point / kTileInputs) ? tall : across ? all - p.small : all);
    }
  };
  const auto blocks_of = [](std::size_t tiles) { return (tiles + V::kTileRows - 1) / V::kTileRows; };
  std::size_t blocks = 0;
  each_point([&](std::size_t, std::size_t first, std::size_t end) { blocks += blocks_of(end - first); });
  PiecesAhead<V> ahead(p.next, blocks * p.channels / Layout::kChannels);
  each_point([&](std::size_t point, std::size_t first, std::size_t end) {
    const std::int16_t* v = p.input + point * p.point;
    const std::int16_t* u = p.weights + point * Layout::template kWeightsPoint<kVectors>;
    std::int32_t* m = p.products + point * kVectors * V::kInts;
    const std::size_t count = blocks_of(end - first);
    for (std::size_t block = 0, row = first; block < count; ++block) {
      const std::size_t next = first + (block + 1) * (end - first) / count;
      kBlocks[next - row - 1](p, v + row * Layout::kChannels, u, m + row * kTile, ahead);
      row = next;
    }
  });
}

template <class V, std::size_t kVectors, class Down, class Across>
void tile_output(const std::int32_t* m, std::int32_t* sums, std::size_t line) {
  using I = typename V::I;
  constexpr std::size_t kColumns = kVectors * V::kInts, kDown = Down::kInputs, kAcross = Across::kInputs;
  const I inverse = V::broadcast(kInverseOf9);
  for (std::size_t column = 0; column < kColumns; column += V::kInts) {
    I lines[Down::kOutputs][kAcross];
    for_each_index<kAcross>([&](auto j) INTACT_INLINE {
      I points[kDown], y[Down::kOutputs];
      for_each_index<kDown>([&](auto i) INTACT_INLINE {
        points[i] = V::load(m + (Down::kPoints[i] * kTileInputs + Across::kPoints[j]) * kColumns + column);
      });
      Down::template output<V>(points, y);
      for_each_index<Down::kOutputs>([&](auto i) INTACT_INLINE { lines[i][j] = y[i]; });
    });
    for_each_index<Down::kOutputs>([&](auto i) INTACT_INLINE {
      I y[Across::kOutputs];
      Across::template output<V>(lines[i], y);
      for_each_index<Across::kOutputs>([&](auto j) INTACT_INLINE {
        const I exact = V::template shift_right<Down::kShift[i] + Across::kShift[j]>(V::mul(y[j], inverse));
        V::store(sums + i * line + j * kColumns + column, exact);
      });
    });
  }
}

template <class V>
constexpr intact::Winograd winograd_of() {
  using Layout = TileLayout<V>;
  return {
      .channels = Layout::kChannels,
      .columns = kTileVectors * V::kInts,
      .cost_of_bytes = V::kCostOfBytes,
      .weights_bytes =
          [](std::size_t channels, std::size_t columns) {
            std::size_t bytes = 0;
            with_vectors<V, kTileVectors>(columns, [&](auto vectors) {
              bytes = channels / Layout::kChannels * Layout::template kWeightsBlock<vectors> * 2;
            });
            return bytes;
          },
      .weights =
          [](const intact::TileWeights& w, std::int16_t* to) {
            with_vectors<V, kTileVectors>(w.columns, [&](auto vectors) { winograd_weights<V, vectors>(w, to); });
          },
      .prefetch = [](const intact::TileWeights& w) { PiecesAhead<V>(w, 1).read(); },
      .input = winograd_input<V>,
      .product =
          [](const intact::TileProduct& p) {
            with_vectors<V, kTileVectors>(p.columns, [&](auto vectors) { winograd_product<V, vectors>(p); });
          },
      .output =
          [](const std::int32_t* products, std::size_t columns, TileKind kind, std::int32_t* sums, std::size_t line) {
            with_vectors<V, kTileVectors>(columns, [&](auto vectors) {
              with_axes(kind, [&]<class Down, class Across>(Down, Across) {
                tile_output<V, vectors, Down, Across>(products, sums, line);
              });
            });
          },
  };
}

template <class V>
constexpr intact::Winograd kWinograd = winograd_of<V>();

}  // namespace
