// Prints two checksums a model and dtype: of labels and of logits drawn freely for some steps.
//
// Within a build, every instruction set and thread count must give the same (exit 1 if not). Across
// builds the output must be the same file: tests/golden/cross_isa.txt. Built for AArch64 and run
// under qemu-user, it proves that NEON gives the bits of AVX-512; on this machine the extension
// runs the same models (tests/cross_isa_models.py).
#include <cstdio>
#include <string>
#include <vector>

#include "cpu/engine_cpu.h"
#include "cpu/isa.h"
#include "multiply_add.h"
#include "random_model.h"

namespace wf = wavernn_fast;

namespace {

// CRC-32 as in zlib, of `data` after what gave `crc`.
uint32_t crc32(uint32_t crc, const void* data, size_t bytes) {
  static const std::vector<uint32_t> table = [] {
    std::vector<uint32_t> made;
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t entry = i;
      for (int bit = 0; bit < 8; ++bit) entry = entry & 1 ? entry >> 1 ^ 0xEDB88320u : entry >> 1;
      made.push_back(entry);
    }
    return made;
  }();
  const auto* p = static_cast<const unsigned char*>(data);
  crc = ~crc;
  for (size_t i = 0; i < bytes; ++i) crc = crc >> 8 ^ table[(crc ^ p[i]) & 255];
  return ~crc;
}

// Checksums of all labels and of all logits.
std::string run_checksums(const wf::ModelConfig& c, const wf::CanonicalWeights& weights,
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
  uint32_t drawn = 0, values = 0;
  for (int s = 0; s < kStreams; ++s) {
    drawn = crc32(drawn, labels[s].data(), 4 * labels[s].size());
    values = crc32(values, logits[s].data(), 4 * logits[s].size());
  }
  char text[20];
  std::snprintf(text, sizeof text, "%08x %08x", drawn, values);
  return text;
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

// Checksums of a model in every dtype; how many runs differ from the first of their dtype.
int print_checksums(const wf::ModelConfig& config, const wf::CanonicalWeights& weights,
                    const std::vector<const char*>& dtypes, const std::string& sparse) {
  int different = 0;
  for (const char* dtype : dtypes) {
    std::string first;
    for (const std::string& isa : wf::cpu::available_isas()) {
      for (int threads : {1, 2}) {
        const std::string found =
            run_checksums(config, weights, {wf::dtype_from_name(dtype), threads, isa, sparse});
        if (first.empty()) first = found;
        if (found == first) continue;
        std::fprintf(stderr, "%s %s %s on %s with %d thread(s): %s, expected %s\n",
                     config.describe().c_str(), dtype, sparse.c_str(), isa.c_str(), threads,
                     found.c_str(), first.c_str());
        ++different;
      }
    }
    const char* cores[] = {"dual", "residual", "embedded"};
    std::printf("%s hidden %d mels %d %s%s%s %s\n", cores[int(config.core)], config.hidden_size,
                config.n_mels, dtype, sparse == "off" ? "" : " ",
                sparse == "off" ? "" : sparse.c_str(), first.c_str());
  }
  return different;
}

}  // namespace

int main() {
  int different = wf::wrong_multiply_adds();
  const std::vector<const char*> floats{"fp32", "fp16", "bf16"}, ints{"int8", "int8-fast"};
  for (const wf::ModelConfig& config : configs()) {
    const wf::CanonicalWeights dense = wf::make_weights(config);
    different +=
        print_checksums(config, dense, floats, "off") + print_checksums(config, dense, ints, "off");
  }
  for (const wf::ModelConfig& config : {configs()[1], configs()[2], configs()[3]}) {
    const wf::CanonicalWeights pruned = wf::make_weights(config, true);
    for (const char* blocks : {"16x1", "4x4", "1x1"})
      different += print_checksums(config, pruned, floats, blocks);
    for (const char* blocks : {"16x1", "4x4", "8x4"})
      different += print_checksums(config, pruned, ints, blocks);
  }
  std::fprintf(stderr, "instruction sets:");
  for (const std::string& isa : wf::cpu::available_isas()) std::fprintf(stderr, " %s", isa.c_str());
  std::fprintf(stderr, "\n");
  return different == 0 ? 0 : 1;
}
