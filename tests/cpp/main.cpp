// Prints one hash a model and dtype: of samples and logits drawn freely for some steps.
//
// Within a build, every instruction set and thread count must give the same hash (exit 1 if not).
// Across builds the output must be the same file: tests/golden/cross_isa.txt. Run natively and,
// built for AArch64, under qemu-user, it proves that NEON gives the bits of AVX-512.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "common/rng.h"
#include "cpu/engine_cpu.h"
#include "cpu/isa.h"
#include "cpu/vec_scalar.h"
#include "random_model.h"

namespace wf = wavernn_fast;

namespace {

void mix(uint64_t& hash, const void* data, size_t bytes) {  // FNV-1a
  const auto* p = static_cast<const unsigned char*>(data);
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ p[i]) * 0x100000001B3ull;
}

uint64_t run_hash(const wf::ModelConfig& c, const wf::CanonicalWeights& weights,
                  const wf::cpu::Options& options) {
  constexpr int kSteps = 96, kStreams = 3;
  const auto engine = wf::cpu::make_engine(c, weights, options);
  const int frames = kSteps / c.hop_length + 2;
  const auto interp = wf::random_tensor(1000, {frames + c.taps(), c.interp_size()}, 0.5f).data;
  const auto hold = wf::random_tensor(1001, {frames, c.hold_size()}, 0.5f).data;
  std::vector<wf::StreamState> states;
  for (uint64_t s = 0; s < kStreams; ++s) states.push_back(wf::make_stream(c, {s, 0, 0}));
  std::vector<std::vector<int32_t>> labels(kStreams, std::vector<int32_t>(kSteps));
  std::vector<std::vector<float>> logits(kStreams, std::vector<float>(kSteps * c.logits_size()));
  std::vector<wf::Job> jobs(kStreams);
  for (int s = 0; s < kStreams; ++s) {
    jobs[s].state = &states[s];
    jobs[s].n_steps = kSteps - 7 * s;
    jobs[s].interp = c.interp_size() ? interp.data() : nullptr;
    jobs[s].hold = c.hold_size() ? hold.data() : nullptr;
    jobs[s].labels = labels[s].data();
    jobs[s].logits = logits[s].data();
  }
  engine->run(jobs, {});
  uint64_t hash = 0xCBF29CE484222325ull;
  for (int s = 0; s < kStreams; ++s) {
    mix(hash, labels[s].data(), 4 * labels[s].size());
    mix(hash, logits[s].data(), 4 * logits[s].size());
  }
  return hash;
}

std::vector<wf::ModelConfig> configs() {
  wf::ModelConfig plain;
  plain.hidden_size = 96;
  plain.fc_size = 40;
  plain.n_classes = 256;
  plain.first_input = -1.0f;
  wf::ModelConfig conditioned = plain;
  conditioned.n_mels = 20;
  conditioned.hop_length = 10;
  conditioned.upsample_left = conditioned.upsample_right = 1;
  wf::ModelConfig residual;
  residual.core = wf::Core::residual;
  residual.head = wf::Head::softmax;
  residual.hidden_size = residual.fc_size = 64;
  residual.n_classes = 512;
  residual.n_mels = 20;
  residual.aux_size = 8;
  residual.hop_length = 10;
  residual.upsample_left = residual.upsample_right = 2;
  wf::ModelConfig embedded;
  embedded.core = wf::Core::embedded;
  embedded.head = wf::Head::softmax;
  embedded.hidden_size = 96;
  embedded.fc_size = 48;
  embedded.n_classes = 64;
  embedded.embedding_size = 12;
  embedded.first_label = 32;
  embedded.n_mels = 20;
  embedded.hop_length = 10;
  return {plain, conditioned, residual, embedded};
}

// Numbers for a multiply-add: any bits; exponents near 1, so that sums cancel; and for every other
// number of 16 a product of almost half a unit in the last place of the third: (1 + e)(1 - e) lies
// below 1 by less than a double sees beside the third, and rounded twice goes the wrong way. The
// third is normal or subnormal by turns of 16, so that neither covers for the other.
void multiply_add_case(uint32_t i, float (&x)[3]) {
  const auto words = wf::philox4x32({11, i, 0}, i);
  for (int j = 0; j < 3; ++j) {
    const uint32_t exponent = (j < 2 ? 120 : 112) + (words[3] >> (8 * j)) % (j < 2 ? 16 : 32);
    const uint32_t bits = i & 2 ? (words[j] & 0x807FFFFFu) | exponent << 23 : words[j];
    std::memcpy(&x[j], &bits, 4);
  }
  if (i & 1) return;
  const bool subnormal = i & 16;
  const float e = std::ldexp(1.0f, -15 - int(words[3] % 9)), sign = words[0] & 1 ? -1.0f : 1.0f;
  x[0] = std::ldexp(1.0f + e, subnormal ? -75 : -10);
  x[1] = std::ldexp(sign * (1.0f - e), subnormal ? -75 : -14);
  const uint32_t bits = (words[2] & 0x807FFFFFu) | (subnormal ? 0 : 127u << 23);
  std::memcpy(&x[2], &bits, 4);
}

// The multiply-add of processors without one must round as std::fma does, alone and in a vector,
// where a lane in doubt must not harm the others.
int wrong_multiply_adds() {
  using wf::cpu::scalar::F;
  int wrong = 0;
  for (uint32_t i = 0; i < 4000000; i += 16) {
    F x[3];
    for (uint32_t lane = 0; lane < 16; ++lane) {
      float one[3];
      multiply_add_case(i + lane, one);
      for (int j = 0; j < 3; ++j) x[j].v[lane] = one[j];
    }
    const F together = wf::cpu::scalar::fma(x[0], x[1], x[2]);
    for (int lane = 0; lane < 16; ++lane) {
      const float a = x[0].v[lane], b = x[1].v[lane], c = x[2].v[lane];
      const float expected = std::fma(a, b, c);
      if (!std::isfinite(a) || !std::isfinite(b) || !std::isfinite(c) || !std::isfinite(expected))
        continue;
      const float alone = wf::cpu::scalar::fma1(a, b, c);
      wrong += std::memcmp(&alone, &expected, 4) != 0;
      wrong += std::memcmp(&together.v[lane], &expected, 4) != 0;
    }
  }
  if (wrong > 0) std::fprintf(stderr, "%d scalar multiply-adds round wrongly\n", wrong);
  return wrong;
}

// Hashes of a model in every dtype; how many runs differ from the first of their dtype.
int print_hashes(const wf::ModelConfig& config, const wf::CanonicalWeights& weights,
                 const std::vector<const char*>& dtypes, const std::string& sparse) {
  int different = 0;
  for (const char* dtype : dtypes) {
    uint64_t first = 0;
    bool have = false;
    for (const std::string& isa : wf::cpu::available_isas()) {
      for (int threads : {1, 2}) {
        const uint64_t hash =
            run_hash(config, weights, {wf::dtype_from_name(dtype), threads, isa, sparse});
        if (!have) first = hash, have = true;
        if (hash == first) continue;
        std::fprintf(stderr, "%s %s %s on %s with %d thread(s): %016llx, expected %016llx\n",
                     config.describe().c_str(), dtype, sparse.c_str(), isa.c_str(), threads,
                     (unsigned long long)hash, (unsigned long long)first);
        ++different;
      }
    }
    const char* cores[] = {"dual", "residual", "embedded"};
    std::printf("%s hidden %d mels %d %s%s%s %016llx\n", cores[int(config.core)],
                config.hidden_size, config.n_mels, dtype, sparse == "off" ? "" : " ",
                sparse == "off" ? "" : sparse.c_str(), (unsigned long long)first);
  }
  return different;
}

}  // namespace

int main() {
  int different = wrong_multiply_adds();
  const std::vector<const char*> floats{"fp32", "fp16", "bf16"}, ints{"int8", "int8-fast"};
  for (const wf::ModelConfig& config : configs()) {
    const wf::CanonicalWeights dense = wf::make_weights(config);
    different +=
        print_hashes(config, dense, floats, "off") + print_hashes(config, dense, ints, "off");
  }
  for (const wf::ModelConfig& config : {configs()[1], configs()[2], configs()[3]}) {
    const wf::CanonicalWeights pruned = wf::make_weights(config, true);
    for (const char* blocks : {"16x1", "4x4", "1x1"})
      different += print_hashes(config, pruned, floats, blocks);
    for (const char* blocks : {"16x1", "4x4", "8x4"})
      different += print_hashes(config, pruned, ints, blocks);
  }
  std::fprintf(stderr, "instruction sets:");
  for (const std::string& isa : wf::cpu::available_isas()) std::fprintf(stderr, " %s", isa.c_str());
  std::fprintf(stderr, "\n");
  return different == 0 ? 0 : 1;
}
