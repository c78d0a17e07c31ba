#pragma once

// How a convolution's rows and columns become the jobs of threads.

#include "../program.hpp"

namespace intact {

// Units of rows (or blocks of lines of an image) and panels of columns, shared out among jobs.
struct Plan {
  std::size_t units = 1;       // of `unit_rows` rows, or of `block_lines` lines
  std::size_t unit_rows = 0;
  std::size_t block_rows = 0;  // that are made readable, and multiplied by all panels, together
  std::size_t block_lines = 1;
  std::size_t row_jobs = 1, panel_jobs = 1;  // of each group
};

// What is to be multiplied, and by how many threads.
struct Products {
  const Kernels& kernels;
  const Packed& weights;
  std::size_t threads;

  std::size_t wanted_jobs() const;  // at most, so that threads can share them out evenly
  bool many_weights() const;  // that do not fit the L2 cache beside the rows
};

// rows: of the matrix of windows, `stride` bytes each. direct: they are read where they lie.
Plan plan_rows(const Products& products, std::size_t rows, std::size_t stride, bool direct);
// Blocks of lines: as many as waste the fewest rows of products.
Plan plan_lines(const Products& products, const Windows& w);

}  // namespace intact
