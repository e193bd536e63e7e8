// The exchange area of the persistent kernel: its size, and what its words are, for reports.
#pragma once

#include <cstdint>
#include <string>

#include "cuda/kernels/shape.h"

namespace wavernn_fast::gpu {

// Words of one of both buffers.
int buffer_words(const Shape& shape);
// Words of the whole area: both buffers, and what stands behind them.
int exchange_words(const Shape& shape);
// What a word is, such as "the reset gate of coarse unit 3".
std::string word_name(const Shape& shape, int word);

// The same of many streams, where a team has two buffers of `shape.buffer_words`.
std::string many_word_name(const Shape& shape, int64_t word);

}  // namespace wavernn_fast::gpu
