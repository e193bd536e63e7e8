// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//
// Chance is a pure function of (seed, item, fold, step): the same seed gives the same audio
// whatever the batch, the chunking, the threads or the device.
#pragma once

#include <array>
#include <cstdint>

namespace wavernn_fast {

struct StreamKey {
  uint64_t seed = 0;  // Philox key
  uint32_t item = 0;  // counter word 2
  uint32_t fold = 0;  // counter word 3
};

// Four 32-bit words for `step`: word 0 feeds the first draw of the step, word 1 the second.
inline std::array<uint32_t, 4> philox4x32(const StreamKey& key, uint64_t step) {
  constexpr uint32_t kMul0 = 0xD2511F53u, kMul1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  uint32_t c0 = uint32_t(step), c1 = uint32_t(step >> 32), c2 = key.item, c3 = key.fold;
  uint32_t k0 = uint32_t(key.seed), k1 = uint32_t(key.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t(kMul0) * c0, p1 = uint64_t(kMul1) * c2;
    const uint32_t n0 = uint32_t(p1 >> 32) ^ c1 ^ k0, n2 = uint32_t(p0 >> 32) ^ c3 ^ k1;
    c1 = uint32_t(p1);
    c3 = uint32_t(p0);
    c0 = n0;
    c2 = n2;
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
  return {c0, c1, c2, c3};
}

}  // namespace wavernn_fast
