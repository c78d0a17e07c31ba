#pragma once

// Memory for vectors.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

namespace intact {

// Memory with readable slack behind it. Where it is large, it lies on large pages if the system has
// them: with small ones, finding out where each lies costs a product of weights a tenth of its time.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);

  std::uint8_t* data() const { return data_.get(); }
  std::size_t bytes() const { return bytes_; }

 private:
  friend class Store;
  std::shared_ptr<std::uint8_t> data_;
  std::size_t bytes_ = 0;
};

// Buffers side by side in blocks that are large enough for large pages. A block lives as long as any of
// its buffers.
class Store {
 public:
  Buffer take(std::size_t bytes);
  // The block that the next ones lie in, of `bytes` with what each of them needs (see `needed`).
  void reserve(std::size_t bytes);
  static std::size_t needed(std::size_t bytes);

 private:
  std::mutex mutex_;
  Buffer block_;
  std::size_t used_ = 0;
};

}  // namespace intact
