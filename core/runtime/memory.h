// Memory aligned for any vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <vector>

namespace bcdnet {

inline constexpr size_t kAlignment = 64;
// Sizes that follow from a file have 64 bits, also where size_t has 32, until it is known that they fit.
constexpr uint64_t RoundUp(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

template <class T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t(kAlignment))); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t(kAlignment)); }
  bool operator==(const AlignedAllocator&) const { return true; }
};

template <class T>
using AlignedVector = std::vector<T, AlignedAllocator<T>>;

}  // namespace bcdnet
