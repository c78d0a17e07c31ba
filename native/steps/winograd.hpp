#pragma once

// 3x3 convolutions with a stride of one, by tiles of the output (Winograd, see kernels.hpp).

#include <functional>
#include <optional>
#include <vector>

#include "plan.hpp"

namespace intact {

class Tiled {
 public:
  // Nothing where the kernels or the shape don't allow it, sums could become too large, or it would take
  // longer.
  static std::optional<Tiled> of(const Products& products, const Windows& w);

  std::size_t jobs() const { return row_jobs_ * column_jobs_; }  // of each group
  std::size_t scratch() const { return scratch_; }

  // What a job reads: the images from a group's first channel on, the group's weights, and what each image is
  // padded with.
  struct Source {
    const std::uint8_t* x;
    const std::int8_t* weights;
    const std::function<std::uint8_t(std::size_t image)>& zero;
  };
  // Called with the sums [count][columns] of adjacent rows of the output.
  using Use = std::function<void(const Panel& columns, std::int32_t* sums, std::size_t row, std::size_t count)>;
  void run(const Source& source, std::size_t job, std::uint8_t* scratch, const Use& use) const;

 private:
  static constexpr std::size_t kTaps = 9, kTileKinds = 4, kMostTiles = 64;

  // Columns that are computed together, and where their weights lie.
  struct Columns {
    Panel panel;
    std::size_t weights, packed_columns;
  };
  // Tiles that are computed together, in the order of their kinds.
  struct Group {
    std::size_t first, tiles, of_kind[kTileKinds], place[kMostTiles];
  };
  // In a thread's memory, and where there.
  struct Memory {
    std::int16_t *input, *weights;
    std::int32_t *products, *sums;
    std::uint8_t* pixels;
  };
  struct Places {
    std::size_t input, weights, products, sums, pixels;
  };

  Tiled(const Products& products, const Windows& w);
  double cost(std::size_t tiles, std::size_t parts) const;
  void share_out(const Products& products);
  void place();
  // Whether the weights of so many parts stay in the cache for all groups of tiles.
  bool keeps(std::size_t parts) const;
  std::size_t most_tiles(bool kept) const;
  std::size_t point(std::size_t tiles) const;
  TileKind kind_of(std::size_t tile) const;
  Group group_of(std::size_t first, std::size_t end) const;
  void read_tile(const Source& source, const Group& group, std::size_t t, const Memory& memory) const;
  void write_tiles(const Panel& columns, const Group& group, const Memory& memory, const Use& use) const;

  Windows w_;
  const Kernels* kernels_;
  std::size_t channels_;                        // of a group
  std::size_t down_, across_, tiles_, groups_;  // tiles of an image, and all
  std::vector<Columns> parts_;
  double vectors_;                              // of columns
  double share_of_points_ = 1;                  // of 36 for each tile
  double cost_ = 0;                             // of the thread that has most to do
  std::size_t row_jobs_ = 1, column_jobs_ = 1;
  bool kept_ = false;                           // whether weights stay for all groups of tiles
  std::size_t weights_bytes_ = 0;               // of a part, at most
  std::size_t made_channels_ = 0;               // whose weights are made at a time
  Places places_{};
  std::size_t scratch_ = 0;
};

}  // namespace intact
