#include "winograd.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

namespace intact {
namespace {

constexpr std::size_t kKeptBytes = 320 * 1024;  // of weights that stay in the cache for all groups of tiles
constexpr std::size_t kTilesBeside = 28;        // of a group, beside those
constexpr std::size_t kMostChannels = 128;      // whose weights are made at a time, where they are not kept
// Cycles, as measured on two units of 64 bytes (benchmarks/kernels): of a tile and a vector of columns for each
// channel, of a tile for a vector of channels and one of columns, of weights for a channel and a vector of
// columns; and of a pixel and such a vector, for each channel, where there are no tiles.
constexpr double kProduct = 9.4, kInput = 105, kOutput = 115, kWeights = 31, kDirectPixel = 1.156;
constexpr std::size_t kDeepest = 8192;  // channels, beyond which memory would be too much
constexpr double kGain = 0.95;  // of the other way's time, that it must stay below

constexpr std::size_t kShortOutputs = 2;

// Whether the last tile along an axis has but two outputs.
bool ends_short(std::size_t outputs) {
  const std::size_t rest = outputs % kTileOutputs;
  return rest > 0 && rest <= kShortOutputs;
}

}  // namespace

std::optional<Tiled> Tiled::of(const Products& p, const Windows& w) {
  const Winograd* k = p.kernels.winograd;
  const bool fits = w.kernel_h == 3 && w.kernel_w == 3 && w.stride_h == 1 && w.stride_w == 1 &&
                    w.dilation_h == 1 && w.dilation_w == 1;
  if (!k || !fits || p.weights.reading.order != Order::kTaps) return std::nullopt;
  const std::size_t channels = w.channels / p.weights.groups;
  if (channels % k->channels != 0 || channels > kDeepest) return std::nullopt;
  if (p.weights.largest_sum >= kMostWinogradSum) return std::nullopt;
  Tiled tiled(p, w);
  const double values = static_cast<double>(w.out_pixels() * w.channels);  // of each column
  const double direct = kDirectPixel * k->cost_of_bytes * values * tiled.vectors_ / static_cast<double>(p.threads);
  if (tiled.cost_ > kGain * direct) return std::nullopt;
  return tiled;
}

Tiled::Tiled(const Products& p, const Windows& w)
    : w_(w), kernels_(&p.kernels), channels_(w.channels / p.weights.groups),
      down_(divide_up(w.out_height, kTileOutputs)), across_(divide_up(w.out_width, kTileOutputs)),
      tiles_(times(w.images, down_ * across_)), groups_(p.weights.groups),
      vectors_(static_cast<double>(divide_up(p.weights.n, kernels_->column_step))) {
  const Winograd& k = *kernels_->winograd;
  for (std::size_t i = 0; i < panels_of(*kernels_, p.weights.n); ++i) {
    const Panel panel = panel_of(*kernels_, p.weights.n, i);
    for (std::size_t c = 0; c < panel.columns; c += k.columns) {
      const Panel part{panel.first + c, std::min(k.columns, panel.columns - c)};
      parts_.push_back({part, kTaps * channels_ * panel.first + 4 * c, panel.columns});
    }
  }
  weights_bytes_ = k.weights_bytes(channels_, k.columns);
  // A short axis has four of the six points.
  const auto points = [](std::size_t tiles, std::size_t outputs) {
    return kTileInputs * tiles - (ends_short(outputs) ? kTileInputs - kTileInputs * 2 / 3 : 0);
  };
  share_of_points_ = static_cast<double>(points(down_, w.out_height) * points(across_, w.out_width)) /
                     static_cast<double>(kTilePoints * down_ * across_);
  share_out(p);
  place();
}

bool Tiled::keeps(std::size_t parts) const { return parts * weights_bytes_ <= kKeptBytes; }

std::size_t Tiled::most_tiles(bool kept) const {
  return kept ? kTilesBeside : kMostTiles;
}

// From point to point of the inputs, in values: an odd number of cache lines, so that they do not fall into the
// same sets of a cache.
std::size_t Tiled::point(std::size_t tiles) const { return (tiles | 1) * kernels_->winograd->channels; }

// Of one job.
double Tiled::cost(std::size_t tiles, std::size_t parts) const {
  const Winograd& k = *kernels_->winograd;
  const double channels = static_cast<double>(channels_);
  const double columns = std::min(static_cast<double>(parts * (k.columns / kernels_->column_step)), vectors_);
  const double times = keeps(parts) ? 1 : static_cast<double>(divide_up(tiles, most_tiles(false)));
  const double tile = kInput * channels / static_cast<double>(k.channels) +
                      columns * (kProduct * share_of_points_ * channels + kOutput);
  return kWeights * channels * columns * times + static_cast<double>(tiles) * tile;
}

// Tiles and columns in jobs, so that the thread that has most to do has the least.
void Tiled::share_out(const Products& p) {
  const std::size_t most = p.wanted_jobs();
  cost_ = std::numeric_limits<double>::infinity();
  for (std::size_t columns = 1; columns <= std::min(parts_.size(), most); ++columns) {
    for (std::size_t rows = 1; rows <= std::min(tiles_, most / columns); ++rows) {
      const double each = cost(divide_up(tiles_, rows), divide_up(parts_.size(), columns));
      const double all = static_cast<double>(divide_up(rows * columns * groups_, p.threads)) * each;
      if (all < cost_) {
        cost_ = all;
        row_jobs_ = rows;
        column_jobs_ = columns;
      }
    }
  }
}

void Tiled::place() {
  const Winograd& k = *kernels_->winograd;
  const std::size_t parts = divide_up(parts_.size(), column_jobs_), sums = k.columns * sizeof(std::int32_t);
  kept_ = keeps(parts);
  made_channels_ = kept_ ? channels_ : std::min(channels_, kMostChannels / k.channels * k.channels);
  const std::size_t tiles = std::min(most_tiles(kept_), divide_up(tiles_, row_jobs_));
  const auto take = [&](std::size_t bytes) {
    const std::size_t place = scratch_;
    scratch_ += round_up(bytes, 64);
    return place;
  };
  places_.input = take(channels_ / k.channels * kTilePoints * point(tiles) * sizeof(std::int16_t));
  places_.weights = take(kept_ ? parts * weights_bytes_ : k.weights_bytes(made_channels_, k.columns));
  places_.products = take(tiles * kTilePoints * sums);
  places_.sums = take(tiles * kTileOutputs * kTileOutputs * sums);
  places_.pixels = take(kTilePoints * channels_);
}

void Tiled::run(const Source& source, std::size_t job, std::uint8_t* scratch, const Use& use) const {
  const Winograd& k = *kernels_->winograd;
  const Memory m{reinterpret_cast<std::int16_t*>(scratch + places_.input),
                 reinterpret_cast<std::int16_t*>(scratch + places_.weights),
                 reinterpret_cast<std::int32_t*>(scratch + places_.products),
                 reinterpret_cast<std::int32_t*>(scratch + places_.sums), scratch + places_.pixels};
  const std::size_t row_job = job % row_jobs_, column_job = job / row_jobs_;
  const std::size_t first = row_job * tiles_ / row_jobs_, end = (row_job + 1) * tiles_ / row_jobs_;
  const std::size_t begin = column_job * parts_.size() / column_jobs_;
  const std::size_t parts = (column_job + 1) * parts_.size() / column_jobs_ - begin;
  const auto packed = [&](std::size_t part, std::size_t channel) {
    const Columns& c = parts_[begin + part];
    return TileWeights{.first = source.weights + c.weights + channel * c.packed_columns,
                       .tap = channels_ * c.packed_columns, .panel_columns = c.packed_columns,
                       .channels = std::min(made_channels_, channels_ - channel), .columns = c.panel.columns};
  };
  const auto weights = [&](std::size_t part) { return m.weights + (kept_ ? part * weights_bytes_ / 2 : 0); };
  if (kept_) {
    for (std::size_t part = 0; part < parts; ++part) k.weights(packed(part, 0), weights(part));
  }
  const std::size_t groups = divide_up(end - first, most_tiles(kept_));
  for (std::size_t i = 0; i < groups; ++i) {
    const Group group = group_of(first + i * (end - first) / groups, first + (i + 1) * (end - first) / groups);
    if (!kept_) k.prefetch(packed(0, 0));
    for (std::size_t t = 0; t < group.tiles; ++t) read_tile(source, group, t, m);
    TileProduct p{.input = m.input, .weights = nullptr, .point = point(group.tiles), .channels = 0, .columns = 0,
                  .narrow = group.of_kind[0], .whole = group.of_kind[1], .flat = group.of_kind[2],
                  .small = group.of_kind[3], .continued = false, .products = m.products};
    for (std::size_t part = 0; part < parts; ++part) {
      p.columns = parts_[begin + part].panel.columns;
      p.weights = weights(part);
      for (std::size_t channel = 0; channel < channels_; channel += made_channels_) {
        p.input = m.input + channel * kTilePoints * (p.point / k.channels);
        p.channels = std::min(made_channels_, channels_ - channel);
        p.continued = channel > 0;
        p.next = {};
        if (!kept_) {
          k.weights(packed(part, channel), weights(part));
          const bool more = channel + made_channels_ < channels_;
          if (more || part + 1 < parts) p.next = more ? packed(part, channel + made_channels_) : packed(part + 1, 0);
        }
        k.product(p);
      }
      write_tiles(parts_[begin + part].panel, group, m, use);
    }
  }
}

TileKind Tiled::kind_of(std::size_t tile) const {
  const bool narrow = tile % across_ + 1 == across_ && ends_short(w_.out_width);
  const bool flat = tile / across_ % down_ + 1 == down_ && ends_short(w_.out_height);
  return flat ? (narrow ? TileKind::kSmall : TileKind::kFlat) : narrow ? TileKind::kNarrow : TileKind::kWhole;
}

Tiled::Group Tiled::group_of(std::size_t first, std::size_t end) const {
  Group group{.first = first, .tiles = end - first, .of_kind = {}, .place = {}};
  for (std::size_t t = first; t < end; ++t) ++group.of_kind[static_cast<std::size_t>(kind_of(t))];
  std::size_t next[kTileKinds] = {};
  for (std::size_t kind = 1; kind < kTileKinds; ++kind) next[kind] = next[kind - 1] + group.of_kind[kind - 1];
  for (std::size_t t = 0; t < group.tiles; ++t) {
    group.place[t] = next[static_cast<std::size_t>(kind_of(first + t))]++;
  }
  return group;
}

void Tiled::read_tile(const Source& source, const Group& group, std::size_t t, const Memory& m) const {
  const Winograd& k = *kernels_->winograd;
  const std::size_t tile = group.first + t, image = tile / (down_ * across_);
  std::int16_t* to_input = m.input + group.place[t] * k.channels;
  const TileKind kind = kind_of(tile);
  const std::size_t pixel = w_.channels, line = w_.width * pixel;
  const std::uint8_t* x = source.x + image * w_.height * line;
  const auto top = static_cast<std::ptrdiff_t>(tile / across_ % down_ * kTileOutputs) -
                   static_cast<std::ptrdiff_t>(w_.pad_top);
  const auto left = static_cast<std::ptrdiff_t>(tile % across_ * kTileOutputs) -
                    static_cast<std::ptrdiff_t>(w_.pad_left);
  const auto height = static_cast<std::ptrdiff_t>(w_.height), width = static_cast<std::ptrdiff_t>(w_.width);
  constexpr auto kInputs = static_cast<std::ptrdiff_t>(kTileInputs);
  if (top >= 0 && left >= 0 && top + kInputs <= height && left + kInputs <= width) {
    x += static_cast<std::size_t>(top) * line + static_cast<std::size_t>(left) * pixel;
    return k.input(x, line, pixel, channels_, kind, point(group.tiles), to_input);
  }
  const std::uint8_t zero = source.zero(image);
  std::uint8_t* to = m.pixels;
  for (std::ptrdiff_t y = top; y < top + kInputs; ++y) {
    for (std::ptrdiff_t column = left; column < left + kInputs; ++column, to += channels_) {
      if (y < 0 || y >= height || column < 0 || column >= width) {
        std::memset(to, zero, channels_);
      } else {
        const std::size_t at = static_cast<std::size_t>(y) * line + static_cast<std::size_t>(column) * pixel;
        std::memcpy(to, x + at, channels_);
      }
    }
  }
  k.input(m.pixels, kTileInputs * channels_, channels_, channels_, kind, point(group.tiles), to_input);
}

// Tiles beside each other together: their lines are as many adjacent rows.
void Tiled::write_tiles(const Panel& columns, const Group& group, const Memory& m, const Use& use) const {
  const Winograd& k = *kernels_->winograd;
  for (std::size_t t = 0; t < group.tiles;) {
    const std::size_t tile = group.first + t, column = tile % across_;
    const std::size_t n = std::min(group.tiles - t, across_ - column);
    const std::size_t line = n * kTileOutputs * columns.columns;
    for (std::size_t i = 0; i < n; ++i) {
      k.output(m.products + group.place[t + i] * kTilePoints * columns.columns, columns.columns,
               kind_of(tile + i), m.sums + i * kTileOutputs * columns.columns, line);
    }
    const std::size_t image = tile / across_ / down_, top = tile / across_ % down_ * kTileOutputs;
    const std::size_t left = column * kTileOutputs, width = std::min(n * kTileOutputs, w_.out_width - left);
    for (std::size_t y = top; y < std::min(top + kTileOutputs, w_.out_height); ++y) {
      use(columns, m.sums + (y - top) * line, (image * w_.out_height + y) * w_.out_width + left, width);
    }
    t += n;
  }
}

}  // namespace intact
