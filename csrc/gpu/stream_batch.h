// What a launch of many streams is given and what it brings back: the arguments, conditioning and
// state of each stream, in few transfers.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"
#include "gpu/buffer.h"
#include "gpu/device.h"
#include "gpu/engine_parts.h"
#include "model/weights.h"

namespace wavernn_fast::gpu {

// One job's share of a launch.
struct Slice {
  Job* job;
  int64_t* done;        // steps of the job so far
  int64_t first_frame;  // of the job's conditioning
  int64_t steps;        // in this launch
};

// Whether a job needs the full kernel (cuda/kernels/shape.h).
bool needs_full(const Job& job);

// The slice of every job before its first step; `done` has a number a job.
std::vector<Slice> begin_slices(const ModelConfig& config, std::vector<Job>& jobs,
                                std::vector<int64_t>& done);

// What every batch of a model needs of it.
struct StreamConstants {
  StreamConstants(const ModelConfig& config, const CanonicalWeights& weights);
  ModelConfig config;
  std::vector<float> bias;    // [channels of a row of `base`], see Engine::hold_bias
  std::vector<float> kernel;  // [hop, taps] of the upsampling, if rows are interpolated
};

class StreamBatch {
 public:
  StreamBatch(Device& device, const StreamConstants& model);

  // Brings everything to the device; returns where the arguments of the slices are there, in order.
  const KernelArgs* upload(const std::vector<Slice>& slices, const uint32_t* weights, Word* words,
                           long long* clocks);

  // What those slices left. Jobs of slices that did not come to their end are as they were; returns
  // the place of the first such slice, or -1. `status`: what it reported.
  int take(std::vector<Slice>& slices, KernelStatus& status);

  // [channels of a row of `base`], see Engine::hold_bias.
  const std::vector<float>& bias() const { return bias_; }

 private:
  // Values of several streams that travel in one transfer.
  template <class T>
  struct Pool {
    explicit Pool(Device& device) : buffer(device) {}
    Buffer<T> buffer;
    std::vector<T> values;
    size_t add(const T* from, size_t count) {
      const size_t at = values.size();
      values.insert(values.end(), from, from + count);
      return at;
    }
    const T* upload() {
      return values.empty() ? nullptr : buffer.upload(values.data(), values.size());
    }
  };
  // Where a slice's values begin in the pools.
  struct Places {
    size_t hold, interp, uniforms, forced;
  };

  KernelArgs stream_arguments(const Slice& slice, const uint32_t* weights, Word* words) const;
  void put_conditioning(KernelArgs& args, const Slice& slice, Places& places);
  void put_outcomes(const Slice& slice, Places& places);
  void add_biased(const float* hold, int64_t rows);  // to the pool: rows of the host, with biases
  void take_one(const Slice& slice, const KernelStatus& status, const int* labels,
                const float* state) const;
  // Floats of a stream's state on the device, those of them that it hears, and its logits in a
  // step.
  size_t heard() const { return size_t(feedback_size(config_)); }
  size_t state_width() const {
    return size_t(config_.hidden_arrays()) * size_t(config_.hidden_size) + heard();
  }
  size_t logits_width() const { return size_t(config_.logits_size()); }

  ModelConfig config_;
  int taps_;
  std::vector<float> bias_;
  Buffer<float> base_, upsample_, logits_;
  Pool<float> hold_, interp_, state_;
  Pool<uint32_t> uniforms_;
  Pool<int> forced_;
  Buffer<int> labels_;
  Buffer<KernelStatus> status_;
  Buffer<KernelArgs> args_;
};

}  // namespace wavernn_fast::gpu
