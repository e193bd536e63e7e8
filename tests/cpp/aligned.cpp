// Where large buffers lie, after malloc has had memory of their size; exit 1 if one is wrong.
#include "common/aligned.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace {

using wavernn_fast::AlignedBuffer;

constexpr size_t kHugePage = size_t(2) << 20;
int failures = 0;

void expect(bool is_so, const char* what) {
  if (is_so) return;
  ++failures;
  std::fprintf(stderr, "%s\n", what);
}

// Pages of a stretch that are in memory, or -1 if some of it is not mapped.
int resident(const void* start, size_t bytes) {
  std::vector<unsigned char> pages(bytes / size_t(sysconf(_SC_PAGESIZE)));
  if (mincore(const_cast<void*>(start), bytes, pages.data()) != 0) return -1;
  return int(std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; }));
}

// Flags of the mapping that an address lies in, as /proc/self/smaps has them.
std::string flags_of(const void* address) {
  std::ifstream maps("/proc/self/smaps");
  bool inside = false;
  for (std::string line; std::getline(maps, line);) {
    uintptr_t first = 0, end = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx ", &first, &end) == 2)
      inside = uintptr_t(address) >= first && uintptr_t(address) < end;
    else if (inside && line.starts_with("VmFlags:"))
      return line + " ";
  }
  return "";
}

template <class T>
bool all_zero(const AlignedBuffer<T>& buffer) {
  return std::all_of(buffer.data(), buffer.data() + buffer.size(), [](T x) { return x == 0; });
}

// malloc gives out memory of this size again, with what was in it.
void use_and_free(size_t bytes) {
  void* memory = std::malloc(bytes);
  std::memset(memory, 0xFF, bytes);
  asm volatile("" : : "r"(memory) : "memory");
  std::free(memory);
}

void large_buffers_are_fresh_and_on_huge_pages() {
  const size_t count = (size_t(5) << 20) / sizeof(float) + 3;  // between two and three
  use_and_free(8 * kHugePage);
  AlignedBuffer<float> buffer(count);
  expect(uintptr_t(buffer.data()) % kHugePage == 0, "a large buffer does not begin a huge page");
  expect(resident(buffer.data(), 3 * kHugePage) == 0, "a large buffer has memory of malloc's");
  expect(flags_of(buffer.data()).find(" hg ") != std::string::npos ||
             access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0,
         "a large buffer does not ask for huge pages");
  expect(buffer.size() == count && all_zero(buffer), "a large buffer is not zero");
  buffer[count - 1] = 1;
  AlignedBuffer<float> moved = std::move(buffer);
  expect(moved[count - 1] == 1 && moved.size() == count, "a moved buffer lost something");
  const float* was = moved.data();
  moved = AlignedBuffer<float>();
  expect(resident(was, 3 * kHugePage) == -1, "a large buffer was not given back");
}

void small_buffers_are_zero_too() {
  const size_t count = 1000;
  use_and_free(count * sizeof(int32_t));
  AlignedBuffer<int32_t> buffer(count);
  expect(uintptr_t(buffer.data()) % 64 == 0, "a small buffer is not aligned");
  expect(all_zero(buffer), "a small buffer is not zero");
  buffer.resize(2 * kHugePage);
  buffer.resize(10);
  expect(buffer.size() == 10 && all_zero(buffer), "a buffer that shrank is not zero");
}

void a_buffer_that_finds_no_memory_is_empty() {
  AlignedBuffer<uint8_t> buffer(100);
  bool has_thrown = false;
  try {
    buffer.resize(std::numeric_limits<ptrdiff_t>::max() / 2);
  } catch (const std::bad_alloc&) {
    has_thrown = true;
  }
  expect(has_thrown && buffer.size() == 0 && buffer.data() == nullptr,
         "a buffer that found no memory is not empty");
}

}  // namespace

int main() {
  mallopt(M_MMAP_THRESHOLD, 64 << 20);  // as after a large array was freed
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
  large_buffers_are_fresh_and_on_huge_pages();
  small_buffers_are_zero_too();
  a_buffer_that_finds_no_memory_is_empty();
  return failures == 0 ? 0 : 1;
}
