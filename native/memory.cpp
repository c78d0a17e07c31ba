#include "memory.hpp"

#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "checks.hpp"
#include "kernels.hpp"

namespace intact {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kLargePage = 2 * 1024 * 1024;
constexpr std::size_t kBlock = 32 * 1024 * 1024;  // of addresses; memory is what is written to
constexpr std::size_t kWorthALargePage = kLargePage / 8;

}  // namespace

Buffer::Buffer(std::size_t bytes) : bytes_(bytes) {
  const bool large = bytes >= kLargePage;
  const std::align_val_t alignment{large ? kLargePage : kAlignment};
  data_ = {static_cast<std::uint8_t*>(::operator new(bytes + kSlack, alignment)),
           [alignment](std::uint8_t* p) { ::operator delete(p, alignment); }};
#ifdef MADV_HUGEPAGE
  // A hint: what becomes of it does not matter.
  if (large) madvise(data_.get(), bytes, MADV_HUGEPAGE);
#endif
}

std::size_t Store::needed(std::size_t bytes) { return round_up(bytes + kSlack, kAlignment); }

void Store::reserve(std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  block_ = Buffer(bytes < kWorthALargePage ? bytes : round_up(bytes, kLargePage));
  used_ = 0;
}

Buffer Store::take(std::size_t bytes) {
#ifdef __SANITIZE_ADDRESS__
  return Buffer(bytes);  // so that what lies beyond one is seen
#else
  const std::size_t size = needed(bytes);
  const std::lock_guard lock(mutex_);
  if (block_.bytes() - used_ < size) {
    if (size > kBlock / 2) return Buffer(bytes);
    block_ = Buffer(kBlock);
    used_ = 0;
  }
  Buffer taken;
  taken.data_ = {block_.data_, block_.data() + used_};
  taken.bytes_ = bytes;
  used_ += size;
  return taken;
#endif
}

}  // namespace intact
