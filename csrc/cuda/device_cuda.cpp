#include "cuda/device_cuda.h"

#include <algorithm>
#include <utility>

#include "common/error.h"
#include "gpu/errors.h"

namespace wavernn_fast::cuda {

namespace {

// The driver does not take this image, another may do.
bool is_about_image(Result result) {
  return result == kInvalidImage || result == kNoBinaryForGpu || result == kInvalidPtx ||
         result == kUnsupportedPtxVersion;
}

gpu::KernelSpec without_sources(gpu::KernelSpec spec) {
  spec.sources.clear();
  return spec;
}

}  // namespace

// Drivers that load lazily may refuse an image only when its function is asked for.
std::pair<const char*, Result> Handles::open(const Driver& driver, const Image& image,
                                             const std::string& name) {
  const Result loaded = driver.cuModuleLoadData(&module, image.bytes.c_str());
  if (loaded != kSuccess) return {"cuModuleLoadData", loaded};
  const Result found = driver.cuModuleGetFunction(&function, module, name.c_str());
  if (found != kSuccess) driver.cuModuleUnload(module);
  return {"cuModuleGetFunction", found};
}

KernelCuda::KernelCuda(std::shared_ptr<Context> context, const gpu::KernelSpec& spec,
                       Handles handles, Image image)
    : context_(std::move(context)),
      spec_(without_sources(spec)),
      image_(std::move(image)),
      handles_(handles) {
  try {
    prepare();
    demand_blocks();
  } catch (...) {
    context_->driver().cuModuleUnload(handles_.module);
    throw;
  }
}

KernelCuda::~KernelCuda() {
  const Current current(*context_, std::nothrow);
  if (current.entered()) context_->driver().cuModuleUnload(handles_.module);
}

void KernelCuda::prepare() {
  const Driver& driver = context_->driver();
  const int limit = context_->limits().shared_per_block;
  if (spec_.shared_bytes > limit)
    fail<DeviceError>("kernel ", spec_.name, " needs ", spec_.shared_bytes,
                      " bytes of shared memory a block, ", context_->where(), " has ", limit,
                      ": use a smaller model, another dtype or device='cpu'");
  if (spec_.shared_bytes > 0)
    context_->check(
        "cuFuncSetAttribute",
        driver.cuFuncSetAttribute(handles_.function, kMaxDynamicSharedBytes, spec_.shared_bytes),
        std::to_string(spec_.shared_bytes) + " bytes of shared memory a block");
}

// Blocks in clusters; and all of them together, if they wait for each other.
LaunchConfig KernelCuda::cluster_launch(LaunchAttribute (&attributes)[2], unsigned blocks) const {
  attributes[0] = {kClusterDimension, 0, {{unsigned(spec_.cluster), 1, 1}}};
  attributes[1] = {kCooperative, 0, {}};
  attributes[1].value.cooperative = 1;
  return {{blocks, 1, 1},
          {unsigned(spec_.threads), 1, 1},
          unsigned(spec_.shared_bytes),
          context_->stream(),
          attributes,
          spec_.together ? 2u : 1u};
}

void KernelCuda::demand_clusters() {
  const Driver& driver = context_->driver();
  if (spec_.cluster > kPortableClusterSize)
    context_->check("cuFuncSetAttribute",
                    driver.cuFuncSetAttribute(handles_.function, kNonPortableClusterSize, 1),
                    "clusters of " + std::to_string(spec_.cluster) + " blocks");
  LaunchAttribute attributes[2];
  const LaunchConfig launch = cluster_launch(attributes, unsigned(spec_.blocks));
  int clusters = 0;
  context_->check("cuOccupancyMaxActiveClusters",
                  driver.cuOccupancyMaxActiveClusters(&clusters, handles_.function, &launch));
  const int fitting = clusters * spec_.cluster;
  if (spec_.blocks <= fitting) return;
  throw gpu::TooManyBlocks("kernel " + spec_.name + " needs " +
                               std::to_string(spec_.blocks / spec_.cluster) + " clusters of " +
                               std::to_string(spec_.cluster) + " blocks running together, " +
                               context_->where() + " has room for " + std::to_string(clusters),
                           fitting);
}

void KernelCuda::demand_blocks() {
  if (spec_.cluster > 1) return demand_clusters();
  int a_multiprocessor = 0;
  context_->check(
      "cuOccupancyMaxActiveBlocksPerMultiprocessor",
      context_->driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(
          &a_multiprocessor, handles_.function, spec_.threads, size_t(spec_.shared_bytes)));
  const int multiprocessors = context_->limits().multiprocessors;
  const int fitting = a_multiprocessor * multiprocessors;
  if (spec_.blocks <= fitting) return;
  throw gpu::TooManyBlocks(
      "kernel " + spec_.name + " needs " + std::to_string(spec_.blocks) + " blocks of " +
          std::to_string(spec_.threads) + " threads running together, " + context_->where() +
          " has room for " + std::to_string(fitting) + " (" + std::to_string(a_multiprocessor) +
          " on each of " + std::to_string(multiprocessors) + " multiprocessors)",
      fitting);
}

void KernelCuda::launch(const gpu::KernelArgs& args) {
  const Current current(*context_);
  void* parameters[] = {const_cast<gpu::KernelArgs*>(&args)};
  const unsigned count = args.blocks > 0 ? args.blocks : unsigned(spec_.blocks);
  const std::string blocks = std::to_string(count) + " blocks of " + std::to_string(spec_.threads) +
                             " threads, " + std::to_string(spec_.shared_bytes) +
                             " bytes of shared memory each";
  if (spec_.cluster > 1) {
    LaunchAttribute attributes[2];
    const LaunchConfig launch = cluster_launch(attributes, count);
    context_->check(
        "cuLaunchKernelEx",
        context_->driver().cuLaunchKernelEx(&launch, handles_.function, parameters, nullptr),
        blocks + ", clusters of " + std::to_string(spec_.cluster));
  } else {
    context_->check("cuLaunchCooperativeKernel",
                    context_->driver().cuLaunchCooperativeKernel(
                        handles_.function, count, 1, 1, unsigned(spec_.threads), 1, 1,
                        unsigned(spec_.shared_bytes), context_->stream(), parameters),
                    blocks);
  }
  context_->synchronize();
}

DeviceCuda::DeviceCuda(const OpenOptions& options)
    : context_(std::make_shared<Context>(options.ordinal, options.stream)),
      images_(options.toolchain, context_->limits().arch, context_->driver().version()) {}

uint64_t DeviceCuda::allocate(size_t bytes) {
  const Current current(*context_);
  DevicePointer address = 0;
  const Result result = context_->driver().cuMemAlloc(&address, std::max<size_t>(bytes, 1));
  if (result == kOutOfMemory) {
    size_t free = 0, total = 0;
    context_->driver().cuMemGetInfo(&free, &total);
    const std::string detail = std::to_string(bytes) + " bytes were needed, " +
                               std::to_string(free) + " of " + std::to_string(total) + " are free";
    throw gpu::OutOfDeviceMemory(
        context_->driver().failure("cuMemAlloc", result, context_->where(), detail), bytes, free);
  }
  context_->check("cuMemAlloc", result, std::to_string(bytes) + " bytes");
  return address;
}

void DeviceCuda::release(uint64_t address) noexcept {
  const Current current(*context_, std::nothrow);
  if (current.entered() && address != 0) context_->driver().cuMemFree(address);
}

// Waits: the caller may change `from` as soon as this returns.
void DeviceCuda::upload(uint64_t to, const void* from, size_t bytes) {
  const Current current(*context_);
  if (bytes == 0) return;
  context_->check("cuMemcpyHtoDAsync",
                  context_->driver().cuMemcpyHtoDAsync(to, from, bytes, context_->stream()));
  context_->synchronize();
}

void DeviceCuda::download(void* to, uint64_t from, size_t bytes) {
  const Current current(*context_);
  if (bytes == 0) return;
  context_->check("cuMemcpyDtoHAsync",
                  context_->driver().cuMemcpyDtoHAsync(to, from, bytes, context_->stream()));
  context_->synchronize();
}

void DeviceCuda::zero(uint64_t address, size_t bytes) {
  const Current current(*context_);
  if (bytes == 0) return;
  context_->check("cuMemsetD8Async",
                  context_->driver().cuMemsetD8Async(address, 0, bytes, context_->stream()));
}

std::string DeviceCuda::unreadable(uint64_t address) const {
  const Current current(*context_);
  int ordinal = -1;
  const Result result =
      context_->driver().cuPointerGetAttribute(&ordinal, kPointerDeviceOrdinal, address);
  if (result == kInvalidValue) return "does not lie in the memory of a GPU";
  context_->check("cuPointerGetAttribute", result);
  if (ordinal == context_->ordinal()) return {};
  return "lies on device " + std::to_string(ordinal) + ", the engine runs on " + context_->where();
}

void DeviceCuda::await(uint64_t stream) {
  const Current current(*context_);
  context_->check(
      "cuStreamSynchronize",
      context_->driver().cuStreamSynchronize(reinterpret_cast<StreamHandle>(uintptr_t(stream))),
      "on the stream that an array names");
}

std::unique_ptr<gpu::Kernel> DeviceCuda::load(const gpu::KernelSpec& spec) {
  const Current current(*context_);
  std::string refused;  // what the driver said of images that were there
  for (const Origin origin : kOrigins) {
    std::optional<Image> image;
    try {
      image = images_.find(spec, origin);
    } catch (const DeviceError& error) {
      if (refused.empty() && images_.has_compiler()) throw;
      if (refused.empty())
        fail<DeviceError>("This model needs a kernel of its own sizes on ", context_->where(),
                          ". Neither the package nor the cache has one, and ", error.what());
      fail<DeviceError>(refused, ". Compiling it did not help: ", error.what());
    }
    if (!image) continue;
    Handles handles;
    const auto [call, result] = handles.open(context_->driver(), *image, spec.name);
    const std::string detail = "kernel " + spec.name + " from " + image->origin;
    if (is_about_image(result)) {
      refused = context_->driver().failure(call, result, context_->where(), detail);
      continue;
    }
    context_->check(call, result, detail);
    images_.keep(spec, *image);
    if (image->origin == "compiler") compiled_ = true;
    return std::make_unique<KernelCuda>(context_, spec, handles, std::move(*image));
  }
  throw DeviceError(refused);
}

// A stream of its own in the context that all libraries of the process share.
std::unique_ptr<gpu::Device> DeviceCuda::beside() {
  OpenOptions options;
  options.ordinal = context_->ordinal();
  return open_device(options);
}

std::unique_ptr<gpu::Device> open_device(const OpenOptions& options) {
  return std::make_unique<DeviceCuda>(options);
}

}  // namespace wavernn_fast::cuda
