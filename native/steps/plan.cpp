#include "plan.hpp"

#include <algorithm>
#include <limits>

namespace intact {
namespace {

constexpr std::size_t kJobsPerThread = 4;
// Gathered rows stay in the L2 cache, beside the weights or, where those do not fit, as many rows as
// do: weights come from the L3 cache once a block of rows.
constexpr std::size_t kBlockBytes = 192 * 1024, kWideBlockBytes = 768 * 1024;
// Rows of a block whose weights all fit: as many as stay in the L1 cache, within these.
constexpr std::size_t kNearBytes = 24 * 1024, kFewestBlockRows = 96, kMostBlockRows = 240;
constexpr std::size_t kManyWeights = 512 * 1024;  // bytes
constexpr double kWeightsAgain = 0.05;  // of a product's time, for each thread more that reads them
constexpr double kJobUnits = 0.25;      // of a block's time, that a job costs

// Rows and panels in jobs, so that the thread that has most to do has the least.
void share_out(const Products& p, Plan& plan) {
  if (p.threads == 1) return;
  const std::size_t panels = panels_of(p.kernels, p.weights.n), most = p.wanted_jobs();
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t columns = 1; columns <= std::min(panels, most); ++columns) {
    for (std::size_t rows = 1; rows <= std::min(plan.units, most / columns); ++rows) {
      const std::size_t jobs = rows * columns * p.weights.groups;
      const std::size_t work = divide_up(jobs, p.threads) * divide_up(plan.units, rows) * divide_up(panels, columns);
      // Jobs cost a little each; rows that are shared out cost weights that are read more than once.
      const double again = p.many_weights() ? kWeightsAgain * static_cast<double>(rows - 1) : 0;
      const double cost = static_cast<double>(work) * (1 + again) +
                          kJobUnits * static_cast<double>(rows * columns);
      if (cost < least) {
        least = cost;
        plan.row_jobs = rows;
        plan.panel_jobs = columns;
      }
    }
  }
}

// With few blocks of rows or many weights threads share the columns; each reads all rows then.
void share_columns(const Products& p, Plan& plan, std::size_t most) {
  plan.row_jobs = 1;
  plan.panel_jobs = std::min(panels_of(p.kernels, p.weights.n), most);
}

}  // namespace

std::size_t Products::wanted_jobs() const { return threads == 1 ? 1 : threads * kJobsPerThread; }

bool Products::many_weights() const { return weights.group_bytes > kManyWeights; }

Plan plan_rows(const Products& p, std::size_t rows, std::size_t stride, bool direct) {
  const Kernels& k = p.kernels;
  const std::size_t fitting = (p.many_weights() ? kWideBlockBytes : kBlockBytes) / stride;
  const std::size_t near = std::clamp(kNearBytes / stride, kFewestBlockRows, kMostBlockRows);
  const std::size_t most = std::max(p.many_weights() ? fitting : near, k.rows);
  const std::size_t whole = std::min(std::clamp(fitting, k.rows, most) / k.rows * k.rows,
                                     round_up(rows, k.rows));
  Plan plan;
  plan.block_rows = whole;
  if (k.product) {
    plan.unit_rows = k.block_rows(panel_of(k, p.weights.n, 0).columns);
    plan.units = divide_up(rows, plan.unit_rows);
    share_out(p, plan);
    return plan;
  }
  // Fewer rows a block where that is what makes enough of them.
  while (!p.many_weights() && plan.block_rows > 2 * k.rows && rows / plan.block_rows < p.wanted_jobs()) {
    plan.block_rows -= k.rows;
  }
  plan.units = divide_up(rows, plan.block_rows);
  plan.row_jobs = std::min(plan.units, p.wanted_jobs());
  if (p.threads > 1 && plan.units < p.wanted_jobs()) {
    share_columns(p, plan, direct || rows <= 4 * k.rows ? p.wanted_jobs() : p.threads);
    plan.block_rows = whole;
    plan.units = divide_up(rows, whole);
  }
  plan.unit_rows = plan.block_rows;
  return plan;
}

Plan plan_lines(const Products& p, const Windows& w) {
  const Kernels& k = p.kernels;
  const Reading& reading = p.weights.reading;
  const std::size_t budget = p.many_weights() ? kWideBlockBytes : kBlockBytes;
  const std::size_t block = k.block_rows(panel_of(k, p.weights.n, 0).columns);
  const auto products = [&](std::size_t lines) {
    return divide_up(k.product ? lines * w.out_width : Lines(w, reading, lines).rows(lines), block);
  };
  const bool share = p.threads > 1 && p.many_weights() &&
                     products(w.out_height) * w.images < 4 * p.wanted_jobs();
  Plan plan;
  std::size_t least = SIZE_MAX;
  for (std::size_t lines = 1; lines <= w.out_height; ++lines) {
    const std::size_t whole = w.out_height / lines, rest = w.out_height % lines;
    const std::size_t blocks = w.images * (whole + (rest > 0));
    const bool fits = Lines(w, reading, lines).bytes() <= budget;
    if (lines > 1 && (!fits || (!share && blocks < p.wanted_jobs()))) break;
    const std::size_t all = whole * products(lines) + (rest > 0 ? products(rest) : 0);
    if (all <= least) {
      least = all;
      plan.block_lines = lines;
    }
  }
  plan.units = w.images * divide_up(w.out_height, plan.block_lines);
  plan.row_jobs = std::min(plan.units, p.wanted_jobs());
  if (share || (p.threads > 1 && plan.units < p.threads)) share_columns(p, plan, p.threads);
  return plan;
}

}  // namespace intact
