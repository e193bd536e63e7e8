#include "cpu/isa.h"

#include <cstdlib>

#include "common/error.h"

namespace wavernn_fast::cpu {

namespace scalar {
extern const KernelTable kTable;
}
#if defined(__x86_64__)
namespace avx2 {
extern const KernelTable kTable;
}
namespace avx512 {
extern const KernelTable kTable;
}
namespace avx512vnni {
extern const KernelTable kTable;
}
#elif defined(__aarch64__)
namespace neon {
extern const KernelTable kTable;
}
#endif

namespace {

std::vector<const KernelTable*> supported() {
  std::vector<const KernelTable*> tables{&scalar::kTable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c"))
    tables.push_back(&avx2::kTable);
  else
    return tables;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    tables.push_back(&avx512::kTable);
  else
    return tables;
  if (__builtin_cpu_supports("avx512vnni")) tables.push_back(&avx512vnni::kTable);
#elif defined(__aarch64__)
  tables.push_back(&neon::kTable);
#endif
  return tables;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const KernelTable* table : supported()) names.emplace_back(table->name);
  return names;
}

const KernelTable& kernels_for(const std::string& name) {
  std::string wanted = name;
  if (wanted == "auto" || wanted.empty()) {
    const char* forced = std::getenv("WAVERNN_FAST_ISA");
    wanted = forced && *forced ? forced : "auto";
  }
  if (wanted == "generic") wanted = "scalar";
  const auto tables = supported();
  if (wanted == "auto") return *tables.back();
  std::string names;
  for (const KernelTable* table : tables) {
    if (wanted == table->name) return *table;
    names += (names.empty() ? "" : ", ") + std::string(table->name);
  }
  fail<DeviceError>("instruction set ", wanted, " is not available on this processor; use one of ",
                    names, " or auto (also in WAVERNN_FAST_ISA)");
}

const KernelTable& few_streams_kernels(const KernelTable& kernels) {
#if defined(__x86_64__)
  if (&kernels == &avx512::kTable || &kernels == &avx512vnni::kTable) return avx2::kTable;
#endif
  return kernels;
}

int widened_tiles(const KernelTable& kernels, Dtype dtype) {
  constexpr int kFew = 3, kNever = 1 << 30;
#if defined(__x86_64__)
  const bool costs_two = &kernels == &avx2::kTable && dtype == Dtype::bf16;
  if (__builtin_cpu_is("amd") && !costs_two) return kNever;
#endif
  return kFew;
}

int panel_blocks(const KernelTable& kernels, Dtype dtype) {
  const PanelBlocks& widths = kernels.panel_blocks;
  const int by_dtype[] = {widths.fp32, widths.fp16, widths.bf16, widths.int8, widths.int8_fast};
  return by_dtype[int(dtype)];
}

}  // namespace wavernn_fast::cpu
