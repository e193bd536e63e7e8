#include "cuda/cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>
#include <sstream>
#include <utility>

#include "cuda/nvrtc.h"
#include "cuda/sha256.h"

namespace wavernn_fast::cuda {

namespace fs = std::filesystem;

namespace {

// An entry: "wavernn_fast kernel 1 <sha256 of the rest> <bytes of the log>\n", log, image.
constexpr const char* kMagic = "wavernn_fast kernel 1 ";
constexpr const char* kSuffix = ".kernel";
constexpr size_t kHashDigits = 64;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

std::optional<Image> parse(const std::string& content) {
  const std::string magic = kMagic;
  const size_t line = content.find('\n');
  if (line == std::string::npos || !content.starts_with(magic)) return {};
  std::istringstream head(content.substr(magic.size(), line - magic.size()));
  std::string hash;
  size_t log_bytes = 0;
  if (!(head >> hash >> log_bytes)) return {};
  const std::string rest = content.substr(line + 1);
  if (hash != sha256(rest) || log_bytes >= rest.size()) return {};
  return Image{rest.substr(log_bytes), rest.substr(0, log_bytes), ""};
}

// A new file for the content of `target`, and its name. A name may be taken already: by what a
// killed process of the same number left, or in another container, where numbers begin anew.
std::pair<int, std::string> create_beside(const std::string& target) {
  static std::atomic<unsigned> counter = 0;
  for (int tries = 0; tries < 1000; ++tries) {
    const std::string part =
        target + ".part-" + std::to_string(getpid()) + "-" + std::to_string(counter++);
    const int file = ::open(part.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (file >= 0 || errno != EEXIST) return {file, part};
  }
  return {-1, {}};
}

bool write_all(int file, const std::string& content) {
  size_t done = 0;
  while (done < content.size()) {
    const ssize_t n = ::write(file, content.data() + done, content.size() - done);
    if (n <= 0) return false;
    done += size_t(n);
  }
  return ::fsync(file) == 0;
}

// "12.9" of "<start>12.9.kernel" as 12090; 0 if the name is another.
int version_in(const std::string& name, const std::string& start) {
  int major = 0, minor = 0, end = 0;
  if (!name.starts_with(start) || !name.ends_with(kSuffix)) return 0;
  if (std::sscanf(name.c_str() + start.size(), "%d.%d.kernel%n", &major, &minor, &end) != 2 ||
      start.size() + size_t(end) != name.size())
    return 0;
  return 1000 * major + 10 * minor;
}

}  // namespace

std::string source_hash(const gpu::KernelSpec& spec) {
  std::string all;
  const auto add = [&all](const std::string& part) {  // lengths keep parts apart
    all += std::to_string(part.size()) + ":" + part;
  };
  add(spec.name);
  add(spec.entry);
  for (const std::string& option : compile_options(spec)) add(option);
  for (const auto& [name, text] : spec.sources) add(name), add(text);
  return sha256(all);
}

std::string entry_name(const std::string& source_hash, const std::string& target,
                       int nvrtc_version) {
  return source_hash + "-" + target + "-nvrtc" + std::to_string(nvrtc_version / 1000) + "." +
         std::to_string(nvrtc_version % 1000 / 10) + kSuffix;
}

ImageFolder ImageFolder::of_user() {
  const std::string own = environment("WAVERNN_FAST_CACHE");
  if (!own.empty()) return ImageFolder(own);
  const std::string caches = environment("XDG_CACHE_HOME"), home = environment("HOME");
  if (caches.starts_with("/")) return ImageFolder(caches + "/wavernn_fast");
  return ImageFolder(home.empty() ? "" : home + "/.cache/wavernn_fast");
}

std::optional<Image> ImageFolder::read(const std::string& name) const {
  if (path_.empty()) return {};
  std::ifstream file(fs::path(path_) / name, std::ios::binary);
  if (!file) return {};
  std::ostringstream content;
  content << file.rdbuf();
  return parse(content.str());
}

std::optional<Image> ImageFolder::read_any(const std::string& source_hash,
                                           const std::string& target, int driver_version) const {
  const std::string start = source_hash + "-" + target + "-nvrtc";
  std::set<int, std::greater<>> versions;  // newest first
  std::error_code error;
  for (fs::directory_iterator i(path_, error), end; !error && i != end; i.increment(error)) {
    const int version = version_in(i->path().filename().string(), start);
    if (version > 0 && version / 1000 <= driver_version / 1000) versions.insert(version);
  }
  for (const int version : versions)
    if (auto image = read(entry_name(source_hash, target, version))) return image;
  return {};
}

bool ImageFolder::write(const std::string& name, const Image& image) const {
  if (path_.empty()) return false;
  std::error_code error;
  fs::create_directories(path_, error);
  const std::string rest = image.log + image.bytes;
  const std::string content =
      kMagic + sha256(rest) + " " + std::to_string(image.log.size()) + "\n" + rest;
  const std::string target = (fs::path(path_) / name).string();
  const auto [file, part] = create_beside(target);
  if (file < 0) return false;
  bool written = write_all(file, content);
  written = ::close(file) == 0 && written;
  written = written && ::rename(part.c_str(), target.c_str()) == 0;
  if (!written) ::unlink(part.c_str());
  return written;
}

}  // namespace wavernn_fast::cuda
