// Device memory that frees itself and grows when more is needed.
#pragma once

#include <algorithm>

#include "gpu/device.h"

namespace wavernn_fast::gpu {

template <class T>
class Buffer {
 public:
  explicit Buffer(Device& device) : device_(device) {}
  ~Buffer() { drop(); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Room for `count` values; what was there may be lost.
  T* reserve(size_t count) {
    if (count > count_) {
      drop();
      address_ = device_.allocate(count * sizeof(T));
      count_ = count;
    }
    return get();
  }
  T* upload(const T* from, size_t count) {
    reserve(count);
    device_.upload(address_, from, count * sizeof(T));
    return get();
  }
  void download(T* to, size_t count) { device_.download(to, address_, count * sizeof(T)); }
  void zero() { device_.zero(address_, count_ * sizeof(T)); }
  T* get() const { return reinterpret_cast<T*>(uintptr_t(address_)); }

 private:
  void drop() {
    if (count_ > 0) device_.release(address_);
    count_ = 0;
  }

  Device& device_;
  uint64_t address_ = 0;
  size_t count_ = 0;
};

}  // namespace wavernn_fast::gpu
