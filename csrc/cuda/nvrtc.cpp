#include "cuda/nvrtc.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

#include "common/error.h"

namespace wavernn_fast::cuda {

namespace {

constexpr int kOldestMajor = 12;  // C++20
constexpr const char* kInstall = "pip install \"wavernn-fast[cuda]\" brings NVRTC 12.9";
constexpr const char* kLoadedNames[] = {"libnvrtc.so.13", "libnvrtc.so.12"};
constexpr const char* kSystemNames[] = {"libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc.so",
                                        "/usr/local/cuda/lib64/libnvrtc.so"};

std::string cuda_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

bool is_loaded(const char* name) {
  void* library = dlopen(name, RTLD_NOW | RTLD_NOLOAD);
  if (library) dlclose(library);
  return library != nullptr;
}

std::vector<std::string> candidates(const std::vector<std::string>& paths) {
  const char* wanted = std::getenv("WAVERNN_FAST_NVRTC");
  if (wanted && *wanted) return {wanted};
  std::vector<std::string> names;
  for (const char* name : kLoadedNames)
    if (is_loaded(name)) names.emplace_back(name);
  names.insert(names.end(), paths.begin(), paths.end());
  names.insert(names.end(), std::begin(kSystemNames), std::end(kSystemNames));
  return names;
}

}  // namespace

std::vector<std::string> compile_options(const gpu::KernelSpec& spec) {
  // Every rounding as the source writes it: approximations are the source's own choice.
  std::vector<std::string> options{
      "--fmad=false",       "--ftz=false",
      "--prec-div=true",    "--prec-sqrt=true",
      "--std=c++20",        "--device-as-default-execution-space",
      "--ptxas-options=-v", "--maxrregcount=" + std::to_string(spec.max_registers)};
  for (const auto& [macro, value] : spec.defines)
    options.push_back("--define-macro=" + macro + "=" + value);
  return options;
}

Nvrtc::Nvrtc(const std::string& path) : path_(path) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* reason = dlerror();
    fail<DeviceError>("cannot be loaded (", reason ? reason : "no reason given", ")");
  }
  std::string missing;
#define WF_RESOLVE_CALL(name, ...)                                        \
  name = reinterpret_cast<decltype(name)>(dlsym(library, "nvrtc" #name)); \
  if (!name) missing += (missing.empty() ? "nvrtc" : ", nvrtc") + std::string(#name);
  WF_NVRTC_CALLS(WF_RESOLVE_CALL)
#undef WF_RESOLVE_CALL
  GetErrorString =
      reinterpret_cast<decltype(GetErrorString)>(dlsym(library, "nvrtcGetErrorString"));
  if (!GetErrorString)
    missing += (missing.empty() ? "" : ", ") + std::string("nvrtcGetErrorString");
  if (!missing.empty()) fail<DeviceError>("has no ", missing, ": too old, or no NVRTC");
  check("nvrtcVersion", Version(&major_, &minor_));
  if (major_ < kOldestMajor)
    fail<DeviceError>("is NVRTC ", version_text(), ", needed is 12.0 or newer");
  int count = 0;
  check("nvrtcGetNumSupportedArchs", GetNumSupportedArchs(&count));
  archs_.resize(size_t(count));
  check("nvrtcGetSupportedArchs", GetSupportedArchs(archs_.data()));
  std::sort(archs_.begin(), archs_.end());
}

const Nvrtc& Nvrtc::open(const std::string& path) {
  static auto& libraries = *new std::map<std::string, std::unique_ptr<Nvrtc>>;
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Nvrtc>& library = libraries[path];
  if (!library) {
    try {
      library.reset(new Nvrtc(path));
    } catch (const DeviceError& error) {
      fail<DeviceError>("NVRTC ", path, " ", error.what());
    }
  }
  return *library;
}

const Nvrtc& Nvrtc::find(const std::vector<std::string>& paths, int arch, int driver_version) {
  std::string reasons;
  for (const std::string& path : candidates(paths)) {
    try {
      const Nvrtc& nvrtc = open(path);
      nvrtc.target(arch, driver_version);
      return nvrtc;
    } catch (const DeviceError& error) {
      reasons += "\n  - " + std::string(error.what());
    }
  }
  fail<DeviceError>("there is no NVRTC that can compile kernels for this GPU; ", kInstall,
                    ". Looked at:", reasons);
}

std::string Nvrtc::version_text() const { return cuda_text(version()); }

std::string Nvrtc::target(int arch, int driver_version) const {
  const std::string self = "NVRTC " + version_text() + " (" + path_ + ")";
  if (driver_version > 0 && major_ > driver_version / 1000)
    fail<DeviceError>(self, " makes kernels for drivers of CUDA ", major_,
                      " and newer, this driver is for CUDA ", cuda_text(driver_version),
                      ": update the driver or install an older NVRTC (", kInstall, ")");
  if (std::binary_search(archs_.begin(), archs_.end(), arch)) return "sm_" + std::to_string(arch);
  const auto above = std::upper_bound(archs_.begin(), archs_.end(), arch);
  if (above == archs_.begin())
    fail<DeviceError>(self, " has no compute capability ", arch / 10, ".", arch % 10,
                      " any more, its oldest is ", archs_.empty() ? 0 : archs_.front() / 10, ".",
                      archs_.empty() ? 0 : archs_.front() % 10, ": ", kInstall);
  const std::string nearest = std::to_string(*(above - 1));
  if (driver_version > 0 && version() > driver_version)
    fail<DeviceError>(self, " does not know compute capability ", arch / 10, ".", arch % 10,
                      ", and its PTX needs a driver for CUDA ", version_text(), ", this is for ",
                      cuda_text(driver_version), ": update the driver");
  return "compute_" + nearest;
}

void Nvrtc::check(const std::string& call, int result) const {
  if (result != 0) fail<DeviceError>(call, " failed: ", GetErrorString(result), " (", result, ")");
}

std::string Nvrtc::log_of(ProgramHandle program) const {
  size_t bytes = 0;
  check("nvrtcGetProgramLogSize", GetProgramLogSize(program, &bytes));
  std::string log(bytes, '\0');
  if (bytes > 0) check("nvrtcGetProgramLog", GetProgramLog(program, log.data()));
  while (!log.empty() && log.back() == '\0') log.pop_back();
  return log;
}

std::string Nvrtc::image_of(ProgramHandle program, bool ptx) const {
  size_t bytes = 0;
  if (ptx)
    check("nvrtcGetPTXSize", GetPTXSize(program, &bytes));
  else
    check("nvrtcGetCUBINSize", GetCUBINSize(program, &bytes));
  std::string image(bytes, '\0');
  if (ptx)
    check("nvrtcGetPTX", GetPTX(program, image.data()));
  else
    check("nvrtcGetCUBIN", GetCUBIN(program, image.data()));
  return image;
}

Compiled Nvrtc::compile(const gpu::KernelSpec& spec, const std::string& target) const {
  std::vector<const char*> names, texts;
  const char* entry = nullptr;
  for (const auto& [name, text] : spec.sources) {
    if (name == spec.entry) entry = text.c_str();
    names.push_back(name.c_str());
    texts.push_back(text.c_str());
  }
  WF_CHECK(entry, "kernel ", spec.name, " has no source file ", spec.entry);
  ProgramHandle program = nullptr;
  check("nvrtcCreateProgram", CreateProgram(&program, entry, spec.entry.c_str(), int(names.size()),
                                            texts.data(), names.data()));
  const auto destroy = [this](ProgramHandle* p) { DestroyProgram(p); };
  const std::unique_ptr<ProgramHandle, decltype(destroy)> guard(&program, destroy);
  std::vector<std::string> options = compile_options(spec);
  options.push_back("--gpu-architecture=" + target);
  std::vector<const char*> arguments;
  for (const std::string& option : options) arguments.push_back(option.c_str());
  const int result = CompileProgram(program, int(arguments.size()), arguments.data());
  const std::string log = log_of(program);
  if (result != 0)
    fail<DeviceError>("NVRTC ", version_text(), " (", path_, ") cannot compile ", spec.entry,
                      " for ", target, ": ", GetErrorString(result), " (", result, ")\n", log);
  return {image_of(program, target.starts_with("compute_")), log};
}

}  // namespace wavernn_fast::cuda
