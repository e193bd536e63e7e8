// 64-byte aligned arrays; large ones sit on huge pages, which batch-1 sampling needs (with 4 KiB
// pages the TLB, not the cache, limits reading 12 MB of weights a sample).
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>

#include "common/integers.h"

namespace wavernn_fast {

template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(size_t count) { resize(count); }
  AlignedBuffer(AlignedBuffer&& other) noexcept { swap(other); }
  AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  AlignedBuffer(const AlignedBuffer&) = delete;
  AlignedBuffer& operator=(const AlignedBuffer&) = delete;
  ~AlignedBuffer() { std::free(data_); }

  // Discards the content; the new content is zero.
  void resize(size_t count) {
    std::free(data_);
    data_ = nullptr;
    size_ = 0;  // and still if there is no memory
    if (count == 0) return;
    constexpr size_t kHugePage = size_t(2) << 20;
    size_t bytes = count * sizeof(T);
    const size_t align = bytes >= kHugePage / 2 ? kHugePage : 64;
    bytes = round_up(bytes, align);
    data_ = static_cast<T*>(std::aligned_alloc(align, bytes));
    if (data_ == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (align == kHugePage) madvise(static_cast<void*>(data_), bytes, MADV_HUGEPAGE);
#endif
    std::memset(static_cast<void*>(data_), 0, bytes);
    size_ = count;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace wavernn_fast
