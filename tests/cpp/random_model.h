// Models of random weights for the C++ test programs, the same on every machine.
#pragma once

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "common/config.h"
#include "common/rng.h"
#include "model/weights.h"

namespace wavernn_fast {

// Uniform in [-scale, scale): counted by (tensor, element), so no library generator is needed.
inline Tensor random_tensor(uint32_t id, std::vector<int64_t> shape, float scale) {
  Tensor tensor{std::move(shape), {}};
  int64_t size = 1;
  for (int64_t n : tensor.shape) size *= n;
  for (int64_t i = 0; i < size; ++i) {
    const uint32_t word = philox4x32({7, id, 0}, uint64_t(i))[0];
    tensor.data.push_back(scale * (float(word >> 8) / 8388608.0f - 1.0f));
  }
  return tensor;
}

// Drops blocks at random: of some rows of blocks nearly all, of one none, of one all.
inline void drop_blocks(uint32_t id, Tensor& tensor, int block_rows, int block_cols) {
  const int64_t rows = tensor.shape[0], cols = tensor.shape[1];
  const int64_t across = (cols + block_cols - 1) / block_cols;
  for (int64_t i = 0; i < rows * cols; ++i) {
    const int64_t row = i / cols / block_rows, block = row * across + i % cols / block_cols;
    const uint32_t word = philox4x32({8, id, 0}, uint64_t(block))[0];
    const uint32_t share = row == 1 ? 256 : row == 2 ? 0 : 128 + row * 37 % 120;
    if (word >> 24 < share) tensor.data[i] = 0.0f;
  }
}

class Maker {
 public:
  void add(const std::string& name, std::vector<int64_t> shape, float scale) {
    weights.add(name, random_tensor(id_++, std::move(shape), scale));
  }
  void layer(const std::string& name, int64_t rows, int64_t cols, float gain) {
    add_pruned(name + ".weight", {rows, cols}, gain * std::sqrt(3.0f / float(cols)));
    add(name + ".bias", {rows}, 0.1f);
  }
  // Dense, or if the model is to be pruned in blocks of 4x4.
  void add_pruned(const std::string& name, std::vector<int64_t> shape, float scale) {
    Tensor tensor = random_tensor(id_, std::move(shape), pruned ? 2.0f * scale : scale);
    if (pruned) drop_blocks(id_, tensor, 4, 4);
    ++id_;
    weights.add(name, std::move(tensor));
  }
  CanonicalWeights weights;
  bool pruned = false;

 private:
  uint32_t id_ = 0;
};

inline CanonicalWeights make_weights(const ModelConfig& c, bool pruned = false) {
  Maker make;
  make.pruned = pruned;
  const int64_t h = c.hidden_size, f = c.fc_size, a = c.aux_size;
  if (c.interp_size() > 0) make.add("upsample.kernel", {c.hop_length, c.taps()}, 1.0f);
  if (c.core == Core::dual) {
    make.add_pruned("gru.w_recurrent", {3 * h, h}, 2.0f / std::sqrt(float(h)));
    make.add("gru.b_recurrent", {3 * h}, 0.3f);
    make.add("gru.b_input", {3 * h}, 0.3f);
    make.add("gru.w_sample", {3 * h, 3}, 1.0f);
    for (const char* half : {"coarse", "fine"}) {
      make.layer(std::string(half) + "_fc1", f, h / 2, 3.0f);
      make.layer(std::string(half) + "_fc2", 256, f, 2.0f);
    }
    return std::move(make.weights);
  }
  if (c.core == Core::embedded) {
    make.add("embedding.weight", {c.n_classes, c.embedding_size}, 1.0f);
    make.add("gru.w_label", {3 * h, c.embedding_size}, 1.0f);
    make.add_pruned("gru.w_recurrent", {3 * h, h}, 2.0f / std::sqrt(float(h)));
    make.add("gru.b_recurrent", {3 * h}, 0.3f);
    make.add("gru.b_input", {3 * h}, 0.3f);
    make.layer("fc1", f, h, 2.0f);
    make.layer("fc2", c.n_classes, f, 2.0f);
    return std::move(make.weights);
  }
  make.layer("input", h, c.bands + c.n_mels + a, 1.0f);
  make.add("gru1.w_input", {3 * h, h}, 1.5f / std::sqrt(float(h)));
  make.add("gru2.w_input", {3 * h, h + a}, 1.5f / std::sqrt(float(h)));
  for (const char* gru : {"gru1", "gru2"}) {
    make.add_pruned(std::string(gru) + ".w_recurrent", {3 * h, h}, 1.5f / std::sqrt(float(h)));
    make.add(std::string(gru) + ".b_input", {3 * h}, 0.3f);
    make.add(std::string(gru) + ".b_recurrent", {3 * h}, 0.3f);
  }
  make.layer("fc1", f, h + a, 1.5f);
  make.layer("fc2", f, f + a, 1.5f);
  make.layer("fc3", c.logits_size(), f, 2.0f);
  return std::move(make.weights);
}

}  // namespace wavernn_fast
