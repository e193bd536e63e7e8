// What every device offers: run streams for some steps, carrying their state.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/rng.h"

namespace wavernn_fast {

// All that a stream carries from one call to the next; nothing else influences its samples.
struct StreamState {
  StreamKey key;
  uint64_t start = 0;  // position of step 0 in its utterance (folds), in steps
  uint64_t step = 0;   // steps done
  float inv_temperature = 1.0f;
  bool greedy = false;
  std::vector<float> hidden;  // dual, embedded [H]; residual [2H]
  // dual: scaled coarse and fine; residual: x of every band; embedded: label
  float feedback[kMostBands] = {};

  uint64_t position() const { return start + step; }
};

StreamState make_stream(const ModelConfig& config, const StreamKey& key);

// One stream's work in one call. Conditioning rows begin at the frame of the first step:
// `hold` row 0 is frame position / hop, `interp` row 0 is upsample_left frames earlier.
struct Job {
  StreamState* state = nullptr;
  int64_t n_steps = 0;
  const float* interp = nullptr;           // [rows, interp_size]
  const float* hold = nullptr;             // [rows, hold_size]
  bool interp_on_device = false;           // interp lies in memory that the engine's device reads
  bool hold_on_device = false;             // the same of hold, which then contains hold_bias()
  const uint32_t* words = nullptr;         // [n_steps, draws_per_step] in place of Philox, or null
  const int32_t* forced_labels = nullptr;  // [n_steps, bands] outcomes to take, or null
  const float* forced_values = nullptr;    // the same for a head that draws values
  int32_t* labels = nullptr;               // out [n_steps, bands]: dual 256 c + f, softmax label
  float* values = nullptr;                 // out [n_steps]: of a head that draws values
  float* logits = nullptr;                 // out [n_steps, logits_size], or null
  int64_t failed_step = -1;                // out: first step with a logit that is not finite
  int failed_band = 0;                     // out: the first band of that step with one
};

// Called on the calling thread at slice borders (every 10 ms or so); may throw to stop the run.
// The state of every stream is then that of its last finished step.
using Interrupt = std::function<void()>;

class Engine {
 public:
  virtual ~Engine() = default;
  virtual const ModelConfig& config() const = 0;
  // Runs every job to its end, lanes() side by side.
  virtual void run(std::vector<Job>& jobs, const Interrupt& interrupt) = 0;
  // The same with at most `places` jobs side by side; 0: lanes(). The next job takes a place the
  // moment the one before has ended there, so jobs should come in the order in which they may
  // begin. An engine that has a number of places of its own need not care for `places`.
  virtual void run_in(std::vector<Job>& jobs, [[maybe_unused]] int places,
                      const Interrupt& interrupt) {
    run(jobs, interrupt);
  }
  // Streams that it runs side by side at their best: with fewer it is slower, with more not faster.
  virtual int lanes() const { return 1; }
  virtual std::string device() const = 0;
  virtual std::string isa() const = 0;
  virtual std::string dtype() const = 0;
  virtual int threads() const = 0;
  virtual uint64_t weight_bytes() const = 0;  // read per sample of one stream
  virtual int64_t macs_per_step() const = 0;
  virtual std::string describe() const = 0;
  // Whether a kernel had to be compiled for this engine, since nobody had kept it.
  virtual bool compiled() const { return false; }
  // Which matrices are kept as lists of their blocks, as a sentence; empty where none is.
  virtual std::string sparse() const { return {}; }
  // Rows in the memory of a device. Why this engine cannot read what lies at an address there, as
  // the end of a sentence that begins with its name; empty if it can.
  virtual std::string unreadable(uint64_t address) const;
  // Returns when the work has ended that a stream of the device holds now (its handle; 1 and 2 are
  // the driver's names of the default streams).
  virtual void await(uint64_t) {}
  // [hold_size] what rows of `hold` in the device's memory contain beside the conditioning.
  virtual std::vector<float> hold_bias() const { return {}; }
  // Ticks of the device's clock that each stage of a sample took in all runs so far (on a CPU
  // nanoseconds of the calling thread, which add up to the time of the runs); empty unless the
  // engine was made with stage clocks.
  virtual std::vector<std::pair<std::string, int64_t>> stage_ticks() { return {}; }
  // What was counted in all runs so far, if the engine was made with stage clocks: on a CPU how
  // often each stage came, in the emulator messages and meetings.
  virtual std::vector<std::pair<std::string, int64_t>> counts() { return {}; }
};

// Checks shared by every engine: jobs of one call must not share a stream.
void check_jobs(const ModelConfig& config, const std::vector<Job>& jobs);

// After a run on an engine whose kernels would draw from a NaN as from a number: a job that has
// heard a row of the host that is not finite failed at the first step that did.
void fail_where_rows_are_not_finite(const ModelConfig& config, std::vector<Job>& jobs);

}  // namespace wavernn_fast
