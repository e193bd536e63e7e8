/* A driver for tests of benchmarks/exchange.py: memory is the host's, a launch computes nothing but
 * fills in the result of a run that went well, 2 ns and 4 ticks a step. Launches that a device would
 * refuse are refused: too much shared memory, sixteen blocks in a cluster without being allowed to,
 * a kernel whose blocks wait for each other and that is not launched together. With STALL set, every
 * run through a cluster reports a stall at that block and word. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  uint64_t stall;
  int failed_step;
  unsigned steps_done;
  int errors;
  unsigned steps;
  int64_t ticks, ns;
} Result;
typedef struct {
  char name[64];
  int wide_cluster;
} Function;

static const int kInvalidValue = 1, kNotFound = 500;

int cuInit(unsigned flags) { return flags ? kInvalidValue : 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuGetErrorName(int code, const char** name) {
  *name = code == kNotFound ? "NOT_FOUND" : "INVALID_VALUE";
  return 0;
}
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char* name, int bytes, int device) {
  snprintf(name, bytes, "Stand-in %d", device);
  return 0;
}
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 16 ? 132 : attribute == 75 ? 9 : attribute == 38 ? 50 << 20 : 0;
  return device;
}
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &cuInit, device; }
int cuCtxSetCurrent(void* context) { return context ? 0 : kInvalidValue; }
int cuCtxSynchronize(void) { return 0; }
int cuMemAlloc_v2(uint64_t* address, size_t bytes) {
  *address = (uint64_t)(uintptr_t)malloc(bytes);
  return 0;
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t bytes) {
  memset((void*)(uintptr_t)address, value, bytes);
  return 0;
}
int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
  memcpy(to, (void*)(uintptr_t)from, bytes);
  return 0;
}
int cuModuleLoadData(void** module, const char* image) {
  *module = (void*)image;
  return memcmp(image, "\x7f" "ELF", 4) ? kInvalidValue : 0;
}
int cuModuleGetFunction(void** function, void* module, const char* name) {
  if (!module || strncmp(name, "exchange_", 9) != 0) return kNotFound;
  Function* f = calloc(1, sizeof(Function));
  strncpy(f->name, name, sizeof(f->name) - 1);
  *function = f;
  return 0;
}
int cuFuncSetAttribute(Function* f, int attribute, int value) {
  if (attribute == 14) f->wide_cluster = value;
  return 0;
}

static int run(Function* f, unsigned blocks, unsigned threads, unsigned shared, void** params) {
  Result* result = *(Result**)params[1];
  const int n = *(int*)params[2], copies = *(int*)params[3];
  const unsigned steps = *(unsigned*)params[4], tag0 = *(unsigned*)params[5];
  const int cluster = strstr(f->name, "_cluster_") || strstr(f->name, "_counted_");
  const unsigned size = (unsigned)atoi(strrchr(f->name, '_') + 1);  /* blocks of a cluster */
  if (shared > 48 * 1024 || threads != 256 || n < 2 || n % 2 || copies < 1 || tag0 == 0 ||
      *(unsigned*)params[6] == 0 || (cluster && (blocks % size || blocks > 132 || (size > 8 && !f->wide_cluster))))
    return kInvalidValue;
  result->steps = steps;
  result->ns = 2 * (int64_t)(steps - 64);
  result->ticks = 4 * (int64_t)(steps - 64);
  if (cluster && getenv("STALL")) result->stall = (uint64_t)strtoul(getenv("STALL"), NULL, 10) << 32 | tag0;
  return 0;
}
int cuLaunchKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                   unsigned bz, unsigned shared, void* stream, void** params, void** extra) {
  if (gy != 1 || gz != 1 || by != 1 || bz != 1 || stream || extra) return kInvalidValue;
  if (!strstr(f->name, "_cluster_") && !strstr(f->name, "_counted_")) return kInvalidValue;
  return run(f, gx, bx, shared, params);
}
int cuLaunchCooperativeKernel(Function* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                              unsigned by, unsigned bz, unsigned shared, void* stream,
                              void** params) {
  if (gy != 1 || gz != 1 || by != 1 || bz != 1 || stream || gx > 132) return kInvalidValue;
  return run(f, gx, bx, shared, params);
}
int cuEventCreate(void** event, unsigned flags) { return *event = malloc(1), (int)flags; }
int cuEventRecord(void* event, void* stream) { return event && !stream ? 0 : kInvalidValue; }
int cuEventSynchronize(void* event) { return event ? 0 : kInvalidValue; }
int cuEventElapsedTime(float* ms, void* a, void* b) {
  *ms = 0.5f;
  return a != b ? 0 : kInvalidValue;
}
