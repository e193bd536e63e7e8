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

// Label of a place among the logits: the inverse of choice_place in the kernel.
int label_of_place(const Shape& s, int place) {
  return place % 64 / 2 * 2 * s.draw_pairs + place / 64 * 2 + place % 2;
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
    out << "logit " << (s.mixtures > 0 ? place : label_of_place(s, place));
    if (s.bands > 1) out << " of band " << band;
  }
  return out.str();
}

// As cuda/kernels/embedded_rows.cuh lays them out.
std::string embedded_name(const Shape& s, int at) {
  std::ostringstream out;
  const int h = s.hidden, p = 3 * h, logits = p + s.fc;
  if (at < p)
    out << "the " << kGates[at / h] << " gate of unit " << at % h;
  else if (at < logits)
    out << "p " << at - p;
  else
    out << "logit " << label_of_place(s, at - logits);
  return out.str();
}

// Whether the exchange area is both buffers and nothing else, of the size that the plan says.
bool is_planned(const Shape& s) { return s.residual || s.embedded; }

}  // namespace

int buffer_words(const Shape& s) {
  return is_planned(s) ? s.buffer_words : 3 * s.hidden + 2 * (s.fc + kClasses);
}

int exchange_words(const Shape& s) {
  return 2 * buffer_words(s) + (is_planned(s) ? 0 : 2 * kClasses);
}

std::string word_name(const Shape& s, int word) {
  const int buffer = buffer_words(s), at = word % buffer;
  if (word >= 2 * buffer) return name_behind_buffers(word - 2 * buffer);
  if (s.residual) return residual_name(s, at);
  if (s.embedded) return embedded_name(s, at);
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

namespace {

// As cuda/kernels/many_exchange.cuh lays them out, of team `team`.
std::string many_dual_name(const Shape& s, int64_t at, int64_t team) {
  const int64_t half = int64_t(s.stream_tiles) * 64 * s.half_tiles;
  const int64_t fc = int64_t(s.stream_tiles) * 64 * s.fc_tiles, logits = 2 * (half + fc);
  const int64_t classes = logits + 512 * s.streams;
  const auto side = [](int64_t i) { return i == 0 ? "coarse" : "fine"; };
  std::ostringstream out;
  const auto pair = [&](const char* name, int64_t i, int64_t all, int64_t tiles) {
    const int64_t in_side = i % all, p = in_side / 8 % (8 * tiles);
    out << "the " << side(i / all) << " " << name << " " << 2 * p << " and " << 2 * p + 1;
  };
  if (at < 2 * half) {
    pair("units", at, half, s.half_tiles);
  } else if (at < logits) {
    pair("y", at - 2 * half, fc, s.fc_tiles);
  } else if (at < classes) {
    const int64_t i = at - logits;
    out << "the " << side(i / (256 * s.streams)) << " logits of slot "
        << i / 256 % s.streams + team * s.streams;
  } else {
    const int64_t i = at - classes;
    out << "the " << side(i / s.streams) << " class of slot " << i % s.streams + team * s.streams;
  }
  return out.str();
}

// The same of cuda/kernels/many_residual_gates.cuh.
std::string many_residual_name(const Shape& s, int64_t at, int64_t team) {
  constexpr const char* kStates[] = {"v", "h1", "w", "h2"};
  const int64_t units = int64_t(s.stream_tiles) * 64 * s.hidden_tiles;
  const int64_t rows = int64_t(s.stream_tiles) * 64 * s.fc_tiles;
  const int64_t logits = 4 * units + 2 * rows;
  const int64_t outcomes = logits + (s.fc3_whole ? 0 : int64_t(s.streams) * s.choice_words);
  std::ostringstream out;
  const auto pair = [&](const char* name, int64_t i, int64_t tiles) {
    const int64_t p = i / 8 % (8 * tiles);
    out << name << " " << 2 * p << " and " << 2 * p + 1;
  };
  if (at < 4 * units)
    pair(kStates[at / units], at % units, s.hidden_tiles);
  else if (at < logits)
    pair(at - 4 * units < rows ? "p" : "q", (at - 4 * units) % rows, s.fc_tiles);
  else if (at < outcomes)
    out << "the logits of slot " << (at - logits) / s.choice_words + team * s.streams;
  else
    out << "the outcome of slot " << (at - outcomes) / (2 * s.bands) + team * s.streams;
  return out.str();
}

// The same of cuda/kernels/many_embedded.cuh.
std::string many_embedded_name(const Shape& s, int64_t at, int64_t team) {
  const int64_t units = int64_t(s.stream_tiles) * 64 * s.hidden_tiles;
  const int64_t logits = units + int64_t(s.stream_tiles) * 64 * s.fc_tiles;
  const int64_t outcomes = logits + int64_t(s.streams) * s.choice_words;
  std::ostringstream out;
  if (at < logits) {
    const int64_t i = at < units ? at : at - units;
    const int64_t pair = i / 8 % (8 * (at < units ? s.hidden_tiles : s.fc_tiles));
    out << (at < units ? "h " : "p ") << 2 * pair << " and " << 2 * pair + 1;
  } else if (at < outcomes) {
    out << "the logits of slot " << (at - logits) / s.choice_words + team * s.streams;
  } else {
    out << "the label of slot " << (at - outcomes) / 2 + team * s.streams;
  }
  return out.str();
}

}  // namespace

namespace {

// Of a message of a team that is a cluster, by its number: cuda/kernels/many_cluster.cuh.
std::string cluster_message_name(const Shape& s, int number) {
  constexpr const char* kDual[] = {"units", "y", "logits", "classes"};
  constexpr const char* kResidual[] = {"v", "h1", "w", "h2", "p", "q", "logits", "outcomes"};
  constexpr const char* kEmbedded[] = {"h", "p", "logits", "labels"};
  std::string name = s.residual   ? kResidual[number % 8]
                     : s.embedded ? kEmbedded[number % 4]
                                  : kDual[number % 4];
  if (!s.residual && !s.embedded) name = (number < 4 ? "coarse " : "fine ") + name;
  return "the " + name + " of its cluster";
}

}  // namespace

std::string many_word_name(const Shape& s, int64_t word) {
  if (s.cluster > 1) return cluster_message_name(s, int(word / 2));
  const int64_t at = word % s.buffer_words, team = word / (2 * int64_t(s.buffer_words));
  return s.residual   ? many_residual_name(s, at, team)
         : s.embedded ? many_embedded_name(s, at, team)
                      : many_dual_name(s, at, team);
}

}  // namespace wavernn_fast::gpu
