#include "engine/engine.h"

#include <algorithm>
#include <unordered_set>

#include "common/error.h"

namespace wavernn_fast {

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

}  // namespace wavernn_fast
