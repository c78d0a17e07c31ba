#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "checks.hpp"
#include "kernels.hpp"
#include "memory.hpp"
#include "pool.hpp"
#include "windows.hpp"

namespace intact {

// Weights w[k][n] in the panels of one instruction set; shared by the programs of all shapes.
// k: [kernel_h][kernel_w][channels].
struct Packed {
  Packed(const Kernels& kernels, Store& store, const std::int8_t* w, std::size_t groups, std::size_t k,
         std::size_t n, const Kernel& kernel);
  std::size_t groups, k, n;  // of one group
  Kernel kernel;
  Reading reading;
  std::size_t group_bytes;
  // Of uint8 with a column's weights, in absolute value; of kernels that Winograd may compute.
  std::int64_t largest_sum;
  const Kernels* kernels;
  Buffer data;
};

// float32 weights w[k][n] in panels of kRealColumns, padded with zeros; shared like Packed.
struct PackedReals {
  PackedReals(const float* w, std::size_t groups, std::size_t k, std::size_t n);
  std::size_t groups, k, n;  // of one group
  std::size_t group_floats;
  Buffer data;

  const float* panel(std::size_t group, std::size_t column) const {
    return reinterpret_cast<const float*>(data.data()) + group * group_floats + column * k;
  }
};

// What runs programs: threads, kernels and the memory that programs work in, one run at a time.
class Engine {
 public:
  Engine(std::size_t threads, const char* isa);

  const Kernels& kernels() const { return kernels_; }
  Pool& pool() { return pool_; }
  std::mutex& mutex() { return mutex_; }
  Store& store() { return store_; }
  // Where a run works: an arena of so many bytes, and what threads need besides, as it was reserved.
  std::uint8_t* arena(std::size_t bytes);
  std::uint8_t* scratch(std::size_t thread) const { return scratch_[thread].data(); }
  void reserve_scratch(std::size_t bytes) { scratch_bytes_ = std::max(scratch_bytes_, bytes); }
  // Multiply-accumulates a second, in billions, of all threads on data in their L1 caches.
  double peak();

 private:
  const Kernels& kernels_;
  Pool pool_;
  std::mutex mutex_;
  Store store_;  // of weights
  Buffer arena_;
  std::vector<Buffer> scratch_;
  std::size_t scratch_bytes_ = 0;  // of a thread
};

// kLines: in the memory of a chain, which holds some lines of it at a time.
enum class Space { kArena, kInput, kOutput, kLines };

// A place in memory that a step reads or writes.
struct Region {
  Space space = Space::kArena;
  std::size_t offset = 0;  // in the arena, or the index of the input or output
  std::size_t bytes = 0;
};

struct Context {
  Engine& engine;
  std::uint8_t* arena;
  const std::vector<std::uint8_t*>& inputs;
  const std::vector<std::uint8_t*>& outputs;

  template <class T>
  T* at(const Region& region) const {
    std::uint8_t* base = region.space == Space::kArena   ? arena + region.offset
                         : region.space == Space::kInput ? inputs[region.offset]
                                                         : outputs[region.offset];
    return reinterpret_cast<T*>(base);
  }
};

// What can compute some lines of an image from some lines of another.
class Lined {
 public:
  virtual ~Lined() = default;
  virtual const Windows& windows() const = 0;
  virtual std::size_t out_channels() const = 0;
  virtual const Region& input() const = 0;
  virtual const Region& output() const = 0;
  // Output lines [first, first + count) of an image. x, y: where the first image would begin.
  virtual void lines(const Context& context, std::size_t thread, std::size_t image, std::size_t first,
                     std::size_t count, const std::uint8_t* x, std::uint8_t* y) const = 0;
};

class Step {
 public:
  virtual ~Step() = default;
  virtual void run(const Context& context) const = 0;
  // Bytes that each thread needs besides the arena.
  virtual std::size_t scratch() const { return 0; }
  // What a label says besides of how it computes, where there is more than one way.
  virtual const char* way() const { return ""; }
  // Itself, if it can be a stage of a chain.
  virtual const Lined* lined() const { return nullptr; }
};

// A list of steps over an arena. Everything that a step will read or write is checked when it is
// added, so that running needs no checks.
class Program {
 public:
  Program(std::shared_ptr<Engine> engine, std::size_t arena_bytes,
          std::vector<std::size_t> input_bytes, std::vector<std::size_t> output_bytes);
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Checks that `region` lies within its space.
  void check(const Region& region) const;
  void add(std::unique_ptr<Step> step, std::string label);
  // Steps that are added in between are the stages of one, which computes them a few lines at a time.
  void begin_chain();
  void end_chain(std::string label);
  void run(const std::vector<std::uint8_t*>& inputs, const std::vector<std::uint8_t*>& outputs);
  // Runs `repetitions` times and returns the least seconds of each step.
  std::vector<double> profile(const std::vector<std::uint8_t*>& inputs,
                              const std::vector<std::uint8_t*>& outputs, std::size_t repetitions);

  Engine& engine() const { return *engine_; }
  const std::vector<std::string>& labels() const { return labels_; }
  const std::vector<std::size_t>& input_bytes() const { return input_bytes_; }
  const std::vector<std::size_t>& output_bytes() const { return output_bytes_; }

 private:
  std::shared_ptr<Engine> engine_;
  std::size_t arena_bytes_;
  std::vector<std::size_t> input_bytes_, output_bytes_;
  std::vector<std::unique_ptr<Step>> steps_;
  std::vector<std::string> labels_;
  std::optional<std::vector<std::unique_ptr<Step>>> stages_;  // of a chain that has begun
};

}  // namespace intact
