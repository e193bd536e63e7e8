// What each error of the driver means for a user. docs/cuda.md has the same table.
#include <cstdlib>

#include "cuda/driver.h"

namespace wavernn_fast::cuda {

namespace {

constexpr const char* kRestart =
    "The GPU's state in this process is broken and every later call would fail: start a new "
    "process";

std::string visible_devices() {
  const char* value = std::getenv("CUDA_VISIBLE_DEVICES");
  return value ? "CUDA_VISIBLE_DEVICES is '" + std::string(value) + "'"
               : "CUDA_VISIBLE_DEVICES is not set";
}

}  // namespace

bool is_sticky(Result result) {
  switch (result) {
    case 214:  // uncorrectable memory error
    case 220:  // uncorrectable NVLink error
    case 226:  // contained error
    case 700:  // illegal address
    case 702:  // launch timed out
    case 709:  // context is destroyed
    case 710:  // device-side assert
    case 714:  // hardware stack error
    case 715:  // illegal instruction
    case 716:  // misaligned address
    case 717:  // invalid address space
    case 718:  // invalid program counter
    case 719:  // launch failed
    case 721:  // tensor memory leak
      return true;
    default:
      return false;
  }
}

std::string advice(Result result) {
  switch (result) {
    case kOutOfMemory:
      return "Use fewer streams, end other programs on this GPU, or use device='cpu'";
    case kNotInitialized:
    case 4:
      return "CUDA is not running in this process: it ends, or it was forked (use spawn)";
    case 34:
      return "This libcuda is the stub of a toolkit, for linking only: take its folder out of "
             "LD_LIBRARY_PATH, or name the real one in WAVERNN_FAST_LIBCUDA";
    case 35:
    case 36:
      return "The driver is too old: update it";
    case 46:
      return "Another process holds the GPU alone, or it is closed to programs (`nvidia-smi -q -d "
             "COMPUTE` tells): end that process or choose another GPU by CUDA_VISIBLE_DEVICES";
    case kNoDevice:
      return "Look at `nvidia-smi`; " + visible_devices();
    case 101:
      return "Devices are counted from 0; " + visible_devices();
    case kInvalidImage:
    case kInvalidPtx:
      return "The kernel file is damaged: empty the kernel cache (WAVERNN_FAST_CACHE)";
    case kNoBinaryForGpu:
      return "The kernel was made for another GPU; to have it made for this one, "
             "pip install \"wavernn-fast[cuda]\" (NVRTC 12.9)";
    case 221:
      return "The driver's own compiler is not installed (libnvidia-ptxjitcompiler): install the "
             "whole driver";
    case kUnsupportedPtxVersion:
      return "The kernel was compiled by an NVRTC newer than the driver: update the driver, or "
             "pip install \"wavernn-fast[cuda]\" (NVRTC 12.9)";
    case 304:
    case 999:
      return "The operating system keeps the GPU from this process: look at `nvidia-smi` and "
             "/dev/nvidia*, start the container with the GPU, reload the driver after suspend";
    case 702:
      return "The display's watchdog ended the kernel: let it work in shorter slices, or run on a "
             "GPU without a display. " +
             std::string(kRestart);
    case kCooperativeLaunchTooLarge:
      return "Other programs or a limit of MPS keep the blocks from running together: end them, or "
             "use device='cpu'";
    case 800:
    case 801:
      return "The GPU, or how it is shared, does not allow this: use another GPU or device='cpu'";
    case 802:
      return "The system is still starting (fabric manager): try again, then look at its service";
    case 803:
      return "The driver's library and its kernel module differ, as after an update: restart the "
             "machine, or give the container the library of the host";
    case 804:
      return "A compatibility library of CUDA hides the driver's own: take it out of "
             "LD_LIBRARY_PATH";
    case 805:
      return "The MPS server does not answer: start it again, or leave it";
    default:
      return is_sticky(result) ? kRestart : "`wavernn-fast doctor` reports what this machine has";
  }
}

}  // namespace wavernn_fast::cuda
