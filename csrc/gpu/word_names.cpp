#include "gpu/word_names.h"

#include <sstream>

namespace wavernn_fast::gpu {
namespace {

constexpr int kClasses = 256;
constexpr const char* kGates[] = {"reset", "update", "candidate"};

// Class of a place among 256 words: the inverse of logit_place in the kernel.
int class_of_place(int place) { return place % 64 / 2 * 8 + place / 64 * 2 + place % 2; }

std::string name_behind_buffers(int place) {
  std::ostringstream out;
  if (place >= 2 * kClasses) {
    const int arrival = place - 2 * kClasses;
    out << "the " << (arrival < 2 ? "coarse" : "fine") << (arrival % 2 == 0 ? " y" : " logits")
        << " of its cluster";
  } else {
    out << "the sum of " << (place < kClasses ? "coarse" : "fine") << " logit "
        << class_of_place(place % kClasses);
  }
  return out.str();
}

// As cuda/kernels/residual_exchange.cuh lays them out.
std::string residual_name(const Shape& s, int at) {
  std::ostringstream out;
  const int h = s.hidden, p = 4 * h, q = p + s.fc, logits = q + s.fc;
  if (at < 3 * h) {
    out << "the " << kGates[at / h] << " gate of unit " << at % h << " of GRU 1";
  } else if (at < p) {
    out << "unit " << at - 3 * h << " of GRU 2";
  } else if (at < logits) {
    out << (at < q ? "p " : "q ") << (at < q ? at - p : at - q);
  } else {
    const int place = (at - logits) % s.band_words, band = (at - logits) / s.band_words;
    out << "logit "
        << (s.mixtures > 0 ? place
                           : place % 64 / 2 * 2 * s.draw_pairs + place / 64 * 2 + place % 2);
    if (s.bands > 1) out << " of band " << band;
  }
  return out.str();
}

}  // namespace

int buffer_words(const Shape& s) {
  return s.residual ? s.buffer_words : 3 * s.hidden + 2 * (s.fc + kClasses);
}

int exchange_words(const Shape& s) { return 2 * buffer_words(s) + (s.residual ? 0 : 2 * kClasses); }

std::string word_name(const Shape& s, int word) {
  const int buffer = buffer_words(s), at = word % buffer;
  if (word >= 2 * buffer) return name_behind_buffers(word - 2 * buffer);
  if (s.residual) return residual_name(s, at);
  std::ostringstream out;
  if (at < 3 * s.hidden) {
    out << "the " << kGates[at / s.half % 3] << " gate of " << (at < 3 * s.half ? "coarse" : "fine")
        << " unit " << at % s.half;
    return out.str();
  }
  const int rest = at - 3 * s.hidden, side = rest / (s.fc + 256), row = rest % (s.fc + 256);
  out << (side ? "fine " : "coarse ") << (row < s.fc ? "y " : "logit ")
      << (row < s.fc ? row : class_of_place(row - s.fc));
  return out.str();
}

}  // namespace wavernn_fast::gpu
