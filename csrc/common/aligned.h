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
  ~AlignedBuffer() { release(); }

  // Discards the content; the new content is zero.
  void resize(size_t count) {
    release();
    if (count == 0) return;
    const size_t bytes = bytes_of(count);
    void* memory = bytes >= kHugePage ? huge_pages(bytes) : std::aligned_alloc(64, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    if (bytes < kHugePage) std::memset(memory, 0, bytes);
    data_ = static_cast<T*>(memory);
    size_ = count;
  }

  T* data() { return data_; }
  const T* data() const { return data_; }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_[i]; }
  const T& operator[](size_t i) const { return data_[i]; }

 private:
  static constexpr size_t kHugePage = size_t(2) << 20;

  static size_t bytes_of(size_t count) {
    const size_t bytes = count * sizeof(T);
    return round_up(bytes, bytes >= kHugePage / 2 ? kHugePage : 64);
  }

  // Fresh from the kernel, and so zero: memory that malloc has had before is on small pages, and
  // advice does not change those. Null if there is none.
  static void* huge_pages(size_t bytes) {
    const size_t asked = bytes + kHugePage;  // a stretch of it is aligned
    void* const start =
        mmap(nullptr, asked, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) return nullptr;
    const size_t before = round_up(size_t(start), kHugePage) - size_t(start);
    char* const aligned = static_cast<char*>(start) + before;
    if (before > 0) munmap(start, before);
    if (before < kHugePage) munmap(aligned + bytes, kHugePage - before);
#ifdef MADV_HUGEPAGE
    madvise(aligned, bytes, MADV_HUGEPAGE);
#endif
    return aligned;
  }

  void release() {
    if (const size_t bytes = bytes_of(size_); bytes >= kHugePage)
      munmap(data_, bytes);
    else
      std::free(data_);
    data_ = nullptr;
    size_ = 0;
  }

  void swap(AlignedBuffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }
  T* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace wavernn_fast
