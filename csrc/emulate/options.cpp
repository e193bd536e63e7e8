#include "emulate/options.h"

#include <charconv>

#include "common/error.h"
#include "cuda/kernels/stages.h"

namespace wavernn_fast::emulate {
namespace {

uint64_t number_after(const std::string& text, const std::string& prefix) {
  uint64_t value = 0;
  const char* begin = text.data() + prefix.size();
  const char* end = text.data() + text.size();
  const auto [last, error] = std::from_chars(begin, end, value);
  WF_CHECK(error == std::errc() && last == end, "schedule \"", text, "\": expected a number after ",
           prefix);
  return value;
}

bool starts(const std::string& text, const char* prefix) { return text.rfind(prefix, 0) == 0; }

Schedule parse_schedule(const std::string& text) {
  if (text == "auto" || text == "fair") return {};
  if (starts(text, "random:")) return {Schedule::Kind::random, number_after(text, "random:"), 0};
  if (starts(text, "starve:")) {
    const uint64_t block = number_after(text, "starve:");
    WF_CHECK(block <= INT32_MAX, "schedule \"", text, "\": expected a block from 0 to ", INT32_MAX);
    return {Schedule::Kind::starve, 0, int(block)};
  }
  if (starts(text, "slow:")) {
    const uint64_t warp = number_after(text, "slow:");
    WF_CHECK(warp < 32, "schedule \"", text, "\": expected a warp from 0 to 31");
    return {Schedule::Kind::slow, 0, int(warp)};
  }
  fail("schedule \"", text, "\" is not fair, random:SEED, starve:BLOCK or slow:WARP");
}

int parse_barrier(const std::string& text) {
  const uint64_t barrier = number_after(text, "lose:barrier:");
  WF_CHECK(barrier < gpu::kEmbeddedBarriers, "fault \"", text, "\": expected a barrier from 0 to ",
           gpu::kEmbeddedBarriers - 1);
  return int(barrier);
}

void parse_option(Options& options, const std::string& text) {
  if (text == "generic") {
    options.generic = true;
  } else if (starts(text, "tag:")) {
    const uint64_t tag = number_after(text, "tag:");
    WF_CHECK(tag >= 1 && tag <= UINT32_MAX, "option \"", text, "\": expected 1 to ", UINT32_MAX);
    options.first_tag = unsigned(tag);
  } else if (starts(text, "room:")) {
    const uint64_t room = number_after(text, "room:");
    WF_CHECK(room >= 1 && room <= INT32_MAX, "option \"", text, "\": expected 1 to ", INT32_MAX);
    options.room = int(room);
  } else if (text == "lose:tag") {
    options.fault.tag = true;
  } else if (text == "lose:parity") {
    options.fault.parity = true;
  } else if (starts(text, "lose:word:")) {
    options.fault.word = static_cast<long long>(number_after(text, "lose:word:"));
  } else if (starts(text, "lose:message:")) {
    const uint64_t message = number_after(text, "lose:message:");
    WF_CHECK(message < 64, "fault \"", text, "\": expected a message from 0 to 63");
    options.fault.message = int(message);
  } else if (starts(text, "lose:barrier:")) {
    options.fault.barrier = parse_barrier(text);
  } else {
    fail("option \"", text,
         "\" is not lose:tag, lose:parity, lose:barrier:N, lose:word:N, lose:message:N, "
         "generic, tag:N or room:N");
  }
}

std::string describe(const Schedule& s) {
  if (s.kind == Schedule::Kind::random) return "random:" + std::to_string(s.seed);
  if (s.kind == Schedule::Kind::starve) return "starve:" + std::to_string(s.block);
  if (s.kind == Schedule::Kind::slow) return "slow:" + std::to_string(s.block);
  return "fair";
}

std::string describe(const Fault& f) {
  std::string text;
  if (f.tag) text += "/lose:tag";
  if (f.parity) text += "/lose:parity";
  if (f.barrier >= 0) text += "/lose:barrier:" + std::to_string(f.barrier);
  if (f.word >= 0) text += "/lose:word:" + std::to_string(f.word);
  if (f.message >= 0) text += "/lose:message:" + std::to_string(f.message);
  return text;
}

}  // namespace

Options parse_options(const std::string& text) {
  size_t slash = text.find('/');
  Options options;
  options.schedule = parse_schedule(text.substr(0, slash));
  while (slash != std::string::npos) {
    const size_t next = text.find('/', slash + 1);
    parse_option(options, text.substr(slash + 1, next - slash - 1));
    slash = next;
  }
  return options;
}

std::string describe(const Options& options) {
  std::string text = describe(options.schedule) + describe(options.fault);
  if (options.generic) text += "/generic";
  if (options.first_tag != 1) text += "/tag:" + std::to_string(options.first_tag);
  if (options.room > 0) text += "/room:" + std::to_string(options.room);
  return text;
}

}  // namespace wavernn_fast::emulate
