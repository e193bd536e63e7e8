#include "emulate/options.h"

#include <charconv>

#include "common/error.h"

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
  if (starts(text, "starve:"))
    return {Schedule::Kind::starve, 0, int(number_after(text, "starve:"))};
  fail("schedule \"", text, "\" is not fair, random:SEED or starve:BLOCK");
}

Fault parse_fault(const std::string& text) {
  if (text == "lose:tag") return {Fault::Kind::tag, 0};
  if (text == "lose:parity") return {Fault::Kind::parity, 0};
  if (starts(text, "lose:barrier:"))
    return {Fault::Kind::barrier, int(number_after(text, "lose:barrier:"))};
  fail("fault \"", text, "\" is not lose:tag, lose:parity or lose:barrier:N");
}

}  // namespace

Options parse_options(const std::string& text) {
  const size_t slash = text.find('/');
  Options options{parse_schedule(text.substr(0, slash)), {}};
  if (slash != std::string::npos) options.fault = parse_fault(text.substr(slash + 1));
  return options;
}

std::string describe(const Options& options) {
  const Schedule& s = options.schedule;
  std::string text = "fair";
  if (s.kind == Schedule::Kind::random) text = "random:" + std::to_string(s.seed);
  if (s.kind == Schedule::Kind::starve) text = "starve:" + std::to_string(s.block);
  switch (options.fault.kind) {
    case Fault::Kind::none:
      return text;
    case Fault::Kind::tag:
      return text + "/lose:tag";
    case Fault::Kind::parity:
      return text + "/lose:parity";
    case Fault::Kind::barrier:
      break;
  }
  return text + "/lose:barrier:" + std::to_string(options.fault.barrier);
}

}  // namespace wavernn_fast::emulate
