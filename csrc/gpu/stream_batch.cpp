#include "gpu/stream_batch.h"

#include <algorithm>
#include <cstring>

#include "gpu/engine_parts.h"

namespace wavernn_fast::gpu {

bool needs_full(const Job& job) {
  return job.logits || job.forced_labels || job.forced_values || job.words || job.state->greedy;
}

std::vector<Slice> begin_slices(const ModelConfig& config, std::vector<Job>& jobs,
                                std::vector<int64_t>& done) {
  done.assign(jobs.size(), 0);
  std::vector<Slice> slices;
  for (size_t i = 0; i < jobs.size(); ++i)
    slices.push_back(
        {&jobs[i], &done[i], int64_t(jobs[i].state->position()) / config.hop_length, 0});
  return slices;
}

StreamConstants::StreamConstants(const ModelConfig& c, const CanonicalWeights& weights)
    : config(c), bias(channel_bias(c, weights)) {
  if (c.interp_size() == 0) return;
  const int64_t hop = c.hop_length, taps = c.taps();
  const float* values = weights.get("upsample.kernel", {hop, taps});
  kernel.assign(values, values + hop * taps);
}

StreamBatch::StreamBatch(Device& device, const StreamConstants& model)
    : config_(model.config),
      taps_(config_.interp_size() > 0 ? config_.taps() : 0),
      bias_(model.bias),
      base_(device),
      upsample_(device),
      logits_(device),
      hold_(device),
      interp_(device),
      state_(device),
      uniforms_(device),
      forced_(device),
      labels_(device),
      status_(device),
      args_(device) {
  base_.upload(bias_.data(), bias_.size());
  if (taps_ > 0) upsample_.upload(model.kernel.data(), model.kernel.size());
}

const KernelArgs* StreamBatch::upload(const std::vector<Slice>& slices, const uint32_t* weights,
                                      Word* words, long long* clocks) {
  const size_t width = state_width();
  size_t steps = 0, logit_steps = 0;
  for (auto* pool : {&hold_, &interp_, &state_}) pool->values.clear();
  uniforms_.values.clear();
  forced_.values.clear();
  std::vector<KernelArgs> args;
  std::vector<Places> places(slices.size());
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice& s = slices[i];
    steps += size_t(s.steps);
    if (s.job->logits) logit_steps += size_t(s.steps);
    args.push_back(stream_arguments(s, weights, words));
    const StreamState& state = *s.job->state;
    state_.add(state.hidden.data(), width - heard());
    state_.add(state.feedback, heard());
    put_conditioning(args.back(), s, places[i]);
    put_outcomes(s, places[i]);
  }
  labels_.reserve(steps * size_t(config_.bands));
  logits_.reserve(logit_steps * logits_width());
  const std::vector<KernelStatus> fresh(slices.size(), KernelStatus{0, -1, 0});
  status_.upload(fresh.data(), fresh.size());
  const float *hold = hold_.upload(), *interp = interp_.upload();
  const uint32_t* uniforms = uniforms_.upload();
  const int* forced = forced_.upload();
  state_.upload();
  size_t label = 0, logit = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    const Job& job = *slices[i].job;
    KernelArgs& a = args[i];
    if (a.base == nullptr) a.base = hold + places[i].hold;
    if (taps_ > 0 && a.interp == nullptr) a.interp = interp + places[i].interp;
    if (job.words) a.uniforms = uniforms + places[i].uniforms;
    if (job.forced_labels || job.forced_values) a.forced = forced + places[i].forced;
    a.state = state_.buffer.get() + i * width;
    a.status = status_.get() + i;
    a.labels = labels_.get() + label;
    label += size_t(slices[i].steps) * size_t(config_.bands);
    if (!job.logits) continue;
    a.logits = logits_.get() + logit * logits_width();
    logit += size_t(slices[i].steps);
  }
  if (!args.empty()) args[0].clocks = clocks;
  return args_.upload(args.data(), args.size());
}

// Random words and outcomes that are given, as in the engine for one stream: the kernel takes two
// words a step, or four.
void StreamBatch::put_outcomes(const Slice& s, Places& places) {
  const Job& job = *s.job;
  places.uniforms = uniforms_.values.size();
  const int draws = config_.draws_per_step(), taken = draws > 2 ? 4 : 2, bands = config_.bands;
  if (job.words && draws == taken)
    uniforms_.add(job.words + draws * *s.done, size_t(draws) * size_t(s.steps));
  else if (job.words)
    for (int64_t i = *s.done; i < *s.done + s.steps; ++i)
      for (int k = 0; k < taken; ++k)
        uniforms_.values.push_back(k < draws ? job.words[i * draws + k] : 0);
  places.forced = forced_.values.size();
  if (job.forced_labels)
    forced_.add(job.forced_labels + bands * *s.done, size_t(bands) * size_t(s.steps));
  if (job.forced_values) {
    forced_.values.resize(places.forced + size_t(s.steps));
    std::memcpy(forced_.values.data() + places.forced, job.forced_values + *s.done,
                size_t(s.steps) * sizeof(int));
  }
}

// What needs no memory of the launch.
KernelArgs StreamBatch::stream_arguments(const Slice& s, const uint32_t* weights,
                                         Word* words) const {
  const StreamState& state = *s.job->state;
  KernelArgs a{};
  a.weights = weights;
  a.words = words;
  a.steps = unsigned(s.steps);
  a.seed = state.key.seed;
  a.item = state.key.item;
  a.fold = state.key.fold;
  a.step0 = state.step;
  a.hop = unsigned(config_.hop_length);
  a.poll_limit = kPollLimit;
  a.inv_temperature = state.inv_temperature;
  a.greedy = state.greedy;
  return a;
}

// Rows of the frames that these steps see, as in the engine for one stream; `base` and `interp`
// stay null where they go to a pool.
void StreamBatch::put_conditioning(KernelArgs& a, const Slice& s, Places& places) {
  const Job& job = *s.job;
  const int64_t position = int64_t(job.state->position()), hop = config_.hop_length;
  const int64_t row = position / hop - s.first_frame;
  const int64_t rows = (position % hop + s.steps + hop - 1) / hop;
  const int64_t width = int64_t(bias_.size()), mixed = config_.interp_size();
  a.phase0 = unsigned(position % hop);
  places.hold = hold_.values.size();
  places.interp = interp_.values.size();
  if (job.hold == nullptr) {
    a.base = base_.get();
  } else {
    a.base_stride = unsigned(width);
    if (job.hold_on_device)
      a.base = job.hold + row * width;
    else
      add_biased(job.hold + row * width, rows);
  }
  if (taps_ == 0) return;
  a.upsample = upsample_.get();
  if (job.interp_on_device)
    a.interp = job.interp + row * mixed;
  else
    interp_.add(job.interp + row * mixed, size_t((rows + taps_ - 1) * mixed));
}

void StreamBatch::add_biased(const float* hold, int64_t rows) {
  const size_t width = bias_.size(), at = hold_.values.size();
  hold_.values.resize(at + size_t(rows) * width);
  float* to = hold_.values.data() + at;
  for (int64_t row = 0; row < rows; ++row, hold += width, to += width)
    for (size_t k = 0; k < width; ++k) to[k] = hold[k] + bias_[k];
}

int StreamBatch::take(std::vector<Slice>& slices, KernelStatus& first_status) {
  const size_t width = state_width();
  std::vector<KernelStatus> status(slices.size());
  status_.download(status.data(), status.size());
  size_t steps = 0, logit_steps = 0;
  for (const Slice& s : slices) {
    steps += size_t(s.steps);
    if (s.job->logits) logit_steps += size_t(s.steps);
  }
  std::vector<int> labels(steps * size_t(config_.bands));
  std::vector<float> logits(logit_steps * logits_width()), state(slices.size() * width);
  labels_.download(labels.data(), labels.size());
  logits_.download(logits.data(), logits.size());
  state_.buffer.download(state.data(), state.size());
  const int* label = labels.data();
  const float* logit = logits.data();
  int first = -1;
  for (size_t i = 0; i < slices.size(); ++i) {
    const Slice& s = slices[i];
    const bool whole = status[i].stall == 0 && status[i].steps_done == unsigned(s.steps);
    if (!whole && first < 0) {
      first = int(i);
      first_status = status[i];
    }
    if (s.job->logits) {
      const int64_t count = s.steps * int64_t(logits_width());
      if (whole) std::copy(logit, logit + count, s.job->logits + *s.done * int64_t(logits_width()));
      logit += count;
    }
    if (whole) take_one(s, status[i], label, state.data() + i * width);
    label += s.steps * config_.bands;
  }
  return first;
}

void StreamBatch::take_one(const Slice& s, const KernelStatus& status, const int* labels,
                           const float* state) const {
  const int64_t bands = config_.bands;
  if (config_.draws_values())  // the kernel's labels are the bits of its values
    std::memcpy(s.job->values + *s.done, labels, size_t(s.steps) * sizeof(int));
  else
    std::copy(labels, labels + s.steps * bands, s.job->labels + bands * *s.done);
  StreamState& to = *s.job->state;
  std::copy(state, state + to.hidden.size(), to.hidden.begin());
  std::copy(state + to.hidden.size(), state + to.hidden.size() + heard(), to.feedback);
  to.step += uint64_t(s.steps);
  if (status.failed_step >= 0 && s.job->failed_step < 0) {
    s.job->failed_step = *s.done + status.failed_step / bands;
    s.job->failed_band = int(status.failed_step % bands);
  }
  *s.done += s.steps;
}

}  // namespace wavernn_fast::gpu
