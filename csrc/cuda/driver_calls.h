// The part of the CUDA driver interface that is used. It is declared here, not taken from a CUDA
// header, so that the extension builds where no toolkit is installed.
#pragma once

#include <cstddef>

namespace wavernn_fast::cuda {

using Result = int;        // CUresult
using DeviceHandle = int;  // CUdevice
using DevicePointer = unsigned long long;
using ContextHandle = struct OpaqueContext*;
using StreamHandle = struct OpaqueStream*;
using ModuleHandle = struct OpaqueModule*;
using FunctionHandle = struct OpaqueFunction*;

constexpr Result kSuccess = 0;
constexpr Result kInvalidValue = 1;
constexpr Result kOutOfMemory = 2;
constexpr Result kNotInitialized = 3;
constexpr Result kNoDevice = 100;
constexpr Result kInvalidImage = 200;
constexpr Result kNoBinaryForGpu = 209;
constexpr Result kInvalidPtx = 218;
constexpr Result kUnsupportedPtxVersion = 222;
constexpr Result kCooperativeLaunchTooLarge = 720;

// CUdevice_attribute
enum DeviceAttribute : int {
  kMaxSharedPerBlock = 8,
  kClockRate = 13,  // kHz
  kMultiprocessorCount = 16,
  kKernelExecTimeout = 17,
  kComputeMode = 20,
  kL2CacheSize = 38,
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
  kMaxRegistersPerMultiprocessor = 82,
  kCooperativeLaunch = 95,
  kMaxSharedPerBlockOptin = 97,
};
constexpr int kComputeModeProhibited = 2;  // CU_COMPUTEMODE_PROHIBITED

constexpr int kMaxDynamicSharedBytes = 8;    // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kNonPortableClusterSize = 14;  // CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
constexpr int kPortableClusterSize = 8;      // every device with clusters takes as many blocks
constexpr unsigned kStreamNonBlocking = 1u;  // CU_STREAM_NON_BLOCKING
constexpr int kPointerDeviceOrdinal = 9;     // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL

// CUlaunchAttribute: what a launch has beside its sizes.
struct LaunchAttribute {
  int id;
  int padding;
  union {
    unsigned cluster[3];
    int cooperative;
    char bytes[64];
  } value;
};
constexpr int kCooperative = 2;       // CU_LAUNCH_ATTRIBUTE_COOPERATIVE
constexpr int kClusterDimension = 4;  // CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION

// CUlaunchConfig
struct LaunchConfig {
  unsigned grid[3], block[3];
  unsigned shared_bytes;
  StreamHandle stream;
  LaunchAttribute* attributes;
  unsigned attribute_count;
};

}  // namespace wavernn_fast::cuda

// CALL(name, symbol, parameters...): the symbol is what the library exports; `_v2` are the 64-bit
// forms that the names in cuda.h stand for.
// clang-format off
#define WF_DRIVER_CALLS(CALL)                                                                      \
  CALL(cuInit, "cuInit", unsigned flags)                                                           \
  CALL(cuDriverGetVersion, "cuDriverGetVersion", int* version)                                     \
  CALL(cuGetErrorName, "cuGetErrorName", Result, const char** name)                                \
  CALL(cuGetErrorString, "cuGetErrorString", Result, const char** text)                            \
  CALL(cuDeviceGetCount, "cuDeviceGetCount", int* count)                                           \
  CALL(cuDeviceGet, "cuDeviceGet", DeviceHandle*, int ordinal)                                     \
  CALL(cuDeviceGetName, "cuDeviceGetName", char* name, int bytes, DeviceHandle)                    \
  CALL(cuDeviceGetAttribute, "cuDeviceGetAttribute", int* value, int attribute, DeviceHandle)      \
  CALL(cuDeviceTotalMem, "cuDeviceTotalMem_v2", size_t* bytes, DeviceHandle)                       \
  CALL(cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain", ContextHandle*, DeviceHandle)         \
  CALL(cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2", DeviceHandle)                    \
  CALL(cuCtxPushCurrent, "cuCtxPushCurrent_v2", ContextHandle)                                     \
  CALL(cuCtxPopCurrent, "cuCtxPopCurrent_v2", ContextHandle*)                                      \
  CALL(cuMemGetInfo, "cuMemGetInfo_v2", size_t* free, size_t* total)                               \
  CALL(cuMemAlloc, "cuMemAlloc_v2", DevicePointer*, size_t bytes)                                  \
  CALL(cuMemFree, "cuMemFree_v2", DevicePointer)                                                   \
  CALL(cuMemcpyHtoDAsync, "cuMemcpyHtoDAsync_v2", DevicePointer, const void*, size_t, StreamHandle)\
  CALL(cuMemcpyDtoHAsync, "cuMemcpyDtoHAsync_v2", void*, DevicePointer, size_t, StreamHandle)      \
  CALL(cuMemsetD8Async, "cuMemsetD8Async", DevicePointer, unsigned char, size_t, StreamHandle)     \
  CALL(cuPointerGetAttribute, "cuPointerGetAttribute", void* value, int attribute, DevicePointer)  \
  CALL(cuStreamCreate, "cuStreamCreate", StreamHandle*, unsigned flags)                            \
  CALL(cuStreamDestroy, "cuStreamDestroy_v2", StreamHandle)                                        \
  CALL(cuStreamSynchronize, "cuStreamSynchronize", StreamHandle)                                   \
  CALL(cuModuleLoadData, "cuModuleLoadData", ModuleHandle*, const void* image)                     \
  CALL(cuModuleUnload, "cuModuleUnload", ModuleHandle)                                             \
  CALL(cuModuleGetFunction, "cuModuleGetFunction", FunctionHandle*, ModuleHandle, const char*)     \
  CALL(cuFuncSetAttribute, "cuFuncSetAttribute", FunctionHandle, int attribute, int value)         \
  CALL(cuOccupancyMaxActiveBlocksPerMultiprocessor,                                                \
       "cuOccupancyMaxActiveBlocksPerMultiprocessor", int* blocks, FunctionHandle, int threads,    \
       size_t shared_bytes)                                                                        \
  CALL(cuOccupancyMaxActiveClusters, "cuOccupancyMaxActiveClusters", int* clusters,                \
       FunctionHandle, const LaunchConfig*)                                                        \
  CALL(cuLaunchKernelEx, "cuLaunchKernelEx", const LaunchConfig*, FunctionHandle,                  \
       void** parameters, void** extra)                                                            \
  CALL(cuLaunchCooperativeKernel, "cuLaunchCooperativeKernel", FunctionHandle, unsigned gx,        \
       unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared_bytes,     \
       StreamHandle, void** parameters)
// clang-format on
