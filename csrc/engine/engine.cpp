#include "engine/engine.h"

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "common/error.h"

namespace wavernn_fast {
namespace {

// Of a finite value x - x is 0 of some sign, of others NaN. In integers and without branches within
// a block, so that compilers make vectors of it: this is done to all that is uploaded.
bool all_finite(const float* x, int64_t n) {
  constexpr int64_t kBlock = 1024;
  for (int64_t first = 0; first < n; first += kBlock) {
    const int64_t end = std::min(first + kBlock, n);
    uint32_t bits = 0;
    for (int64_t i = first; i < end; ++i) bits |= std::bit_cast<uint32_t>(x[i] - x[i]);
    if (bits << 1 != 0) return false;
  }
  return true;
}

// The first of rows [n, width] with a value that is not finite, or n.
int64_t first_not_finite(const float* rows, int64_t n, int64_t width) {
  if (all_finite(rows, n * width)) return n;
  int64_t row = 0;
  while (all_finite(rows + row * width, width)) ++row;
  return row;
}

}  // namespace

StreamState make_stream(const ModelConfig& config, const StreamKey& key) {
  StreamState state;
  state.key = key;
  state.hidden.assign(size_t(config.hidden_size) * config.hidden_arrays(), 0.0f);
  const int heard = config.core == Core::dual ? 2 : config.bands;
  std::fill_n(state.feedback, heard, config.first_feedback());
  return state;
}

std::string Engine::unreadable(uint64_t) const {
  return "lies in the memory of a GPU, and the engine on " + device() +
         " reads the host's: give a NumPy array";
}

void check_jobs(const ModelConfig& config, const std::vector<Job>& jobs) {
  std::unordered_set<const StreamState*> seen;
  for (size_t i = 0; i < jobs.size(); ++i) {
    const Job& job = jobs[i];
    WF_CHECK(seen.insert(job.state).second, "stream ", i, " appears twice in one call");
    WF_CHECK(job.n_steps >= 0, "stream ", i, " asks for ", job.n_steps, " steps");
    const size_t expected = size_t(config.hidden_size) * config.hidden_arrays();
    WF_CHECK(job.state->hidden.size() == expected, "stream ", i,
             " was opened on another model: its state has ", job.state->hidden.size(),
             " values, expected ", expected);
  }
}

void fail_where_rows_are_not_finite(const ModelConfig& config, std::vector<Job>& jobs) {
  const int64_t hop = config.hop_length, taps = config.taps();
  for (Job& job : jobs) {
    if (job.n_steps == 0) continue;
    const int64_t phase = (int64_t(job.state->position()) - job.n_steps) % hop;
    const int64_t frames = (phase + job.n_steps + hop - 1) / hop;
    int64_t frame = frames;  // the first that hears such a row
    if (job.hold != nullptr && !job.hold_on_device)
      frame = first_not_finite(job.hold, frames, config.hold_size());
    if (job.interp != nullptr && !job.interp_on_device) {  // the last tap hears a row first
      const int64_t row = first_not_finite(job.interp, frames + taps - 1, config.interp_size());
      frame = std::min(frame, row - (taps - 1));
    }
    if (frame == frames) continue;
    const int64_t step = std::max<int64_t>(0, frame * hop - phase);
    if (job.failed_step >= 0 && job.failed_step <= step) continue;
    job.failed_step = step;
    job.failed_band = 0;
  }
}

}  // namespace wavernn_fast
