/* A stand-in for the NVIDIA driver, for tests on machines without one. Device memory is host
 * memory, a launch computes nothing, and every call is written to a file. It keeps the rules that a
 * real driver keeps and that a wrong caller would break: calls need a current context, memory must
 * be its own, launches must fit, a context is dead after certain errors, a forked child has none.
 *
 * FAKE_CUDA_DEVICES  "name=Big,sms=132,arch=90;name=Slice,sms=14": one entry a device
 * FAKE_CUDA_VERSION  what cuDriverGetVersion answers
 * FAKE_CUDA_MEMORY   bytes of a device
 * FAKE_CUDA_FAIL     "cuMemAlloc_v2@2=2 cuInit@*=100": the n-th (or every) call gives this result
 * FAKE_CUDA_FAIL_ON  number of the device whose calls fail by the script; by default all do
 * FAKE_CUDA_CALLS    file to which every call is appended: pid, name, details
 * FAKE_CUDA_POINTERS  device on which all memory is said to lie, also what is none of the driver's
 * FAKE_CUDA_RUN      a launch does what can be seen of the persistent kernel: label i of step i
 * FAKE_CUDA_PAUSE    milliseconds that a launch takes
 * FAKE_CUDA_START    milliseconds that cuInit takes
 * FAKE_CUDA_ARGS     bytes of the kernel's argument that a launch writes out, in hexadecimal
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int Result;
typedef unsigned long long Pointer;

enum { kMaxBlocks = 256, kMaxNames = 64 };

static struct Block {
  char* start;
  size_t bytes;
} blocks[kMaxBlocks];
static struct Count {
  char name[64];
  int calls;
} counts[kMaxNames];
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static int initialized_pid, poison, retained[16];
static size_t used, shared_limit = 48 * 1024;
static __thread void* stack[16];
static __thread int depth;

static void note(const char* format, ...) {
  const char* path = getenv("FAKE_CUDA_CALLS");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (!file) return;
  char line[4096];
  va_list list;
  va_start(list, format);
  vsnprintf(line, sizeof line, format, list);
  va_end(list);
  fprintf(file, "%d %s\n", (int)getpid(), line);
  fclose(file);
}

static int is_sticky(Result code) {
  return code == 700 || code == 702 || code == 714 || (code >= 715 && code <= 719);
}

/* The result that the script has for this call of `name`; 0 if none. */
static Result scripted(const char* name) {
  int nth = 0;
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < kMaxNames; ++i) {
    if (!counts[i].name[0]) snprintf(counts[i].name, sizeof counts[i].name, "%s", name);
    if (strcmp(counts[i].name, name) == 0) {
      nth = ++counts[i].calls;
      break;
    }
  }
  pthread_mutex_unlock(&mutex);
  const char* script = getenv("FAKE_CUDA_FAIL");
  const char* only = getenv("FAKE_CUDA_FAIL_ON");
  if (only && (depth == 0 || (int)((int*)stack[depth - 1] - retained) != atoi(only))) return 0;
  const size_t length = strlen(name);
  while (script && *script) {
    if (strncmp(script, name, length) == 0 && script[length] == '@') {
      const char* when = script + length + 1;
      if (*when == '*' || atoi(when) == nth) return atoi(strchr(when, '=') + 1);
    }
    script = strchr(script, ' ');
    if (script) ++script;
  }
  return 0;
}

static Result begin(const char* name, int needs_context) {
  Result code = 0;
  if (strcmp(name, "cuInit") != 0 && initialized_pid != (int)getpid()) code = 3;
  if (!code) code = scripted(name);
  if (!code && needs_context) code = poison ? poison : depth == 0 ? 201 : 0;
  if (is_sticky(code)) poison = code;
  return code;
}

#define BEGIN(name, needs_context, ...)                   \
  do {                                                    \
    note(name " " __VA_ARGS__);                           \
    const Result early_code = begin(name, needs_context); \
    if (early_code) return early_code;                    \
  } while (0)

/* Copies field `key` of device `ordinal` into `value`; 0 if the device has none. */
static int field(int ordinal, const char* key, char* value, size_t bytes) {
  const char* all = getenv("FAKE_CUDA_DEVICES");
  if (!all) all = "name=Fake";
  for (; ordinal > 0 && all; --ordinal) {
    all = strchr(all, ';');
    if (all) ++all;
  }
  if (!all || !*all) return 0;
  const size_t length = strlen(key);
  while (*all && *all != ';') {
    const size_t end = strcspn(all, ",;");
    if (strncmp(all, key, length) == 0 && all[length] == '=') {
      snprintf(value, bytes, "%.*s", (int)(end - length - 1), all + length + 1);
      return 1;
    }
    all += end;
    if (*all == ',') ++all;
  }
  return 0;
}

static int number(int ordinal, const char* key, int otherwise) {
  char text[64];
  return field(ordinal, key, text, sizeof text) ? atoi(text) : otherwise;
}

static int device_count(void) {
  const char* all = getenv("FAKE_CUDA_DEVICES");
  if (!all) return 1;
  int count = *all ? 1 : 0;
  for (; *all; ++all) count += *all == ';';
  return count;
}

static size_t memory_size(void) {
  const char* text = getenv("FAKE_CUDA_MEMORY");
  return text ? strtoull(text, NULL, 10) : (size_t)1 << 30;
}

static int inside(Pointer address, size_t bytes) {
  const char* p = (const char*)address;
  int found = 0;
  pthread_mutex_lock(&mutex);
  for (int i = 0; i < kMaxBlocks && !found; ++i)
    found =
        blocks[i].start && p >= blocks[i].start && p + bytes <= blocks[i].start + blocks[i].bytes;
  pthread_mutex_unlock(&mutex);
  return found;
}

Result cuInit(unsigned flags) {
  BEGIN("cuInit", 0, "%u", flags);
  const char* start = getenv("FAKE_CUDA_START");
  if (start) usleep(1000u * (unsigned)atoi(start));
  initialized_pid = (int)getpid();
  return 0;
}

Result cuDriverGetVersion(int* version) {
  BEGIN("cuDriverGetVersion", 0);
  const char* text = getenv("FAKE_CUDA_VERSION");
  *version = text ? atoi(text) : 12090;
  return 0;
}

static const struct {
  int code;
  const char *name, *text;
} errors[] = {
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the PTX was compiled with a newer toolchain"},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {714, "CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error"},
    {717, "CUDA_ERROR_INVALID_ADDRESS_SPACE", "operation not supported on this address space"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {720, "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE", "too many blocks in cooperative launch"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "unsupported display driver / cuda driver"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted"},
    {805, "CUDA_ERROR_MPS_CONNECTION_FAILED", "MPS client failed to connect"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

Result cuGetErrorName(Result code, const char** name) {
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; ++i)
    if (errors[i].code == code) return *name = errors[i].name, 0;
  return *name = NULL, 1;
}

Result cuGetErrorString(Result code, const char** text) {
  for (size_t i = 0; i < sizeof errors / sizeof errors[0]; ++i)
    if (errors[i].code == code) return *text = errors[i].text, 0;
  return *text = NULL, 1;
}

Result cuDeviceGetCount(int* count) {
  BEGIN("cuDeviceGetCount", 0);
  *count = device_count();
  return 0;
}

Result cuDeviceGet(int* device, int ordinal) {
  BEGIN("cuDeviceGet", 0, "%d", ordinal);
  if (ordinal < 0 || ordinal >= device_count()) return 101;
  *device = ordinal;
  return 0;
}

Result cuDeviceGetName(char* name, int bytes, int device) {
  BEGIN("cuDeviceGetName", 0, "%d", device);
  if (!field(device, "name", name, (size_t)bytes)) snprintf(name, (size_t)bytes, "Fake");
  return 0;
}

Result cuDeviceTotalMem_v2(size_t* bytes, int device) {
  BEGIN("cuDeviceTotalMem_v2", 0, "%d", device);
  *bytes = memory_size();
  return 0;
}

Result cuDeviceGetAttribute(int* value, int attribute, int device) {
  BEGIN("cuDeviceGetAttribute", 0, "%d %d", attribute, device);
  static const struct {
    int attribute, otherwise;
    const char* key;
  } known[] = {
      {8, 49152, "default_shared"},
      {13, 1755000, "clock"},
      {16, 132, "sms"},
      {17, 0, "watchdog"},
      {20, 0, "mode"},
      {38, 52428800, "l2"},
      {75, 90, "arch"},
      {76, 90, "arch"},
      {82, 65536, "registers"},
      {95, 1, "cooperative"},
      {97, 232448, "shared"},
  };
  for (size_t i = 0; i < sizeof known / sizeof known[0]; ++i) {
    if (known[i].attribute != attribute) continue;
    const int found = number(device, known[i].key, known[i].otherwise);
    *value = attribute == 75 ? found / 10 : attribute == 76 ? found % 10 : found;
    return 0;
  }
  return 1;
}

Result cuDevicePrimaryCtxRetain(void** context, int device) {
  BEGIN("cuDevicePrimaryCtxRetain", 0, "%d", device);
  ++retained[device];
  *context = &retained[device];
  return 0;
}

Result cuDevicePrimaryCtxRelease_v2(int device) {
  BEGIN("cuDevicePrimaryCtxRelease_v2", 0, "%d", device);
  if (retained[device] == 0) return 201;
  if (--retained[device] == 0) poison = 0;
  return 0;
}

Result cuCtxPushCurrent_v2(void* context) {
  BEGIN("cuCtxPushCurrent_v2", 0, "%p", context);
  if (!context || *(int*)context == 0 || depth == 16) return 201;
  stack[depth++] = context;
  return 0;
}

Result cuCtxPopCurrent_v2(void** context) {
  BEGIN("cuCtxPopCurrent_v2", 0);
  if (depth == 0) return 201;
  *context = stack[--depth];
  return 0;
}

Result cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  BEGIN("cuMemGetInfo_v2", 1);
  *total = memory_size();
  *free_bytes = *total - used;
  return 0;
}

static Result allocate(Pointer* address, size_t bytes) {
  if (bytes == 0) return 1;
  if (used + bytes > memory_size()) return 2;
  for (int i = 0; i < kMaxBlocks; ++i) {
    if (blocks[i].start) continue;
    blocks[i].start = aligned_alloc(256, (bytes + 255) / 256 * 256);
    memset(blocks[i].start, 0xA5, bytes); /* never zero by chance */
    blocks[i].bytes = bytes;
    used += bytes;
    *address = (Pointer)blocks[i].start;
    return 0;
  }
  return 2;
}

static Result release(Pointer address) {
  for (int i = 0; i < kMaxBlocks; ++i) {
    if (!blocks[i].start || (Pointer)blocks[i].start != address) continue;
    used -= blocks[i].bytes;
    free(blocks[i].start);
    blocks[i].start = NULL;
    return 0;
  }
  return 1;
}

Result cuMemAlloc_v2(Pointer* address, size_t bytes) {
  BEGIN("cuMemAlloc_v2", 1, "%zu", bytes);
  pthread_mutex_lock(&mutex);
  const Result result = allocate(address, bytes);
  pthread_mutex_unlock(&mutex);
  return result;
}

Result cuMemFree_v2(Pointer address) {
  BEGIN("cuMemFree_v2", 1);
  pthread_mutex_lock(&mutex);
  const Result result = release(address);
  pthread_mutex_unlock(&mutex);
  return result;
}

Result cuMemcpyHtoDAsync_v2(Pointer to, const void* from, size_t bytes, void* stream) {
  BEGIN("cuMemcpyHtoDAsync_v2", 1, "%zu stream=%p", bytes, stream);
  if (!inside(to, bytes)) return 1;
  memcpy((void*)to, from, bytes);
  return 0;
}

Result cuMemcpyDtoHAsync_v2(void* to, Pointer from, size_t bytes, void* stream) {
  BEGIN("cuMemcpyDtoHAsync_v2", 1, "%zu stream=%p", bytes, stream);
  if (!inside(from, bytes)) return 1;
  memcpy(to, (const void*)from, bytes);
  return 0;
}

Result cuMemsetD8Async(Pointer to, unsigned char value, size_t bytes, void* stream) {
  BEGIN("cuMemsetD8Async", 1, "%zu stream=%p", bytes, stream);
  if (!inside(to, bytes)) return 1;
  memset((void*)to, value, bytes);
  return 0;
}

Result cuPointerGetAttribute(void* value, int attribute, Pointer address) {
  BEGIN("cuPointerGetAttribute", 0, "%d %llx", attribute, address);
  const char* others = getenv("FAKE_CUDA_POINTERS");
  if (attribute != 9 || (!others && !inside(address, 1))) return 1;
  *(int*)value = others ? atoi(others) : 0;
  return 0;
}

Result cuStreamCreate(void** stream, unsigned flags) {
  BEGIN("cuStreamCreate", 1, "%u", flags);
  *stream = malloc(1);
  return 0;
}

Result cuStreamDestroy_v2(void* stream) {
  BEGIN("cuStreamDestroy_v2", 1, "%p", stream);
  free(stream);
  return 0;
}

Result cuStreamSynchronize(void* stream) {
  BEGIN("cuStreamSynchronize", 1, "stream=%p", stream);
  return 0;
}

Result cuModuleLoadData(void** module, const void* image) {
  BEGIN("cuModuleLoadData", 1, "%.*s", (int)strcspn((const char*)image + 1, "\n"),
        (const char*)image + 1);
  if (memcmp(image,
             "\x7f"
             "ELF",
             4) != 0 &&
      memcmp(image, "//", 2) != 0)
    return 200;
  *module = malloc(1);
  return 0;
}

Result cuModuleUnload(void* module) {
  BEGIN("cuModuleUnload", 1);
  free(module);
  return 0;
}

Result cuModuleGetFunction(void** function, void* module, const char* name) {
  BEGIN("cuModuleGetFunction", 1, "%s", name);
  *function = module;
  return 0;
}

Result cuFuncSetAttribute(void* function, int attribute, int value) {
  BEGIN("cuFuncSetAttribute", 1, "%d %d", attribute, value);
  (void)function;
  if (attribute == 14) return 0; /* clusters of more than 8 blocks */
  if (attribute != 8) return 1;
  shared_limit = (size_t)value;
  return 0;
}

Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* count, void* function, int threads,
                                                   size_t shared) {
  BEGIN("cuOccupancyMaxActiveBlocksPerMultiprocessor", 1, "%d %zu", threads, shared);
  (void)function;
  const int device = (int)((int*)stack[depth - 1] - retained);
  *count = number(device, "resident", 1);
  return 0;
}

/* CUlaunchAttribute and CUlaunchConfig, as cuda.h has them. */
typedef struct {
  int id;
  char padding[4];
  union {
    unsigned cluster[3];
    int cooperative;
    char bytes[64];
  } value;
} Attribute;
typedef struct {
  unsigned gx, gy, gz, bx, by, bz, shared;
  void* stream;
  Attribute* attributes;
  unsigned count;
} Config;

/* Blocks of a cluster, 0 if there is no such attribute; whether the launch is cooperative. */
static unsigned cluster_of(const Config* launch, int* cooperative) {
  unsigned cluster = 0;
  *cooperative = 0;
  for (unsigned i = 0; i < launch->count; ++i) {
    if (launch->attributes[i].id == 4) cluster = launch->attributes[i].value.cluster[0];
    if (launch->attributes[i].id == 2) *cooperative = launch->attributes[i].value.cooperative;
  }
  return cluster;
}

Result cuOccupancyMaxActiveClusters(int* count, void* function, const Config* launch) {
  int cooperative;
  const unsigned cluster = cluster_of(launch, &cooperative);
  BEGIN("cuOccupancyMaxActiveClusters", 1, "cluster=%u shared=%u", cluster, launch->shared);
  (void)function;
  const int device = (int)((int*)stack[depth - 1] - retained);
  if (cluster == 0) return 1;
  *count = number(device, "clusters", number(device, "sms", 132) / (int)cluster);
  return 0;
}

/* What can be seen of the persistent kernel (persistent.cpp). */
Result pretend(const void* args, int (*inside)(Pointer address, size_t bytes));

Result cuLaunchKernelEx(const Config* launch, void* function, void** parameters, void** extra) {
  int cooperative;
  const unsigned cluster = cluster_of(launch, &cooperative);
  BEGIN("cuLaunchKernelEx", 1, "grid=%u,%u,%u block=%u,%u,%u shared=%u cluster=%u cooperative=%d",
        launch->gx, launch->gy, launch->gz, launch->bx, launch->by, launch->bz, launch->shared,
        cluster, cooperative);
  (void)function;
  const int device = (int)((int*)stack[depth - 1] - retained);
  if (extra || cluster == 0 || launch->gx % cluster) return 1;
  if (launch->gx > (unsigned)number(device, "sms", 132)) return 720;
  if (launch->shared > shared_limit) return 1;
  return getenv("FAKE_CUDA_RUN") ? pretend(parameters[0], inside) : 0;
}

#ifndef WITHOUT_COOPERATIVE_LAUNCH
Result cuLaunchCooperativeKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx,
                                 unsigned by, unsigned bz, unsigned shared, void* stream,
                                 void** parameters) {
  const char* size = getenv("FAKE_CUDA_ARGS");
  const unsigned char* bytes = parameters[0];
  char hex[2048] = "";
  for (int i = 0; size && i < atoi(size); ++i) snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
  BEGIN("cuLaunchCooperativeKernel", 1, "grid=%u,%u,%u block=%u,%u,%u shared=%u stream=%p args=%s",
        gx, gy, gz, bx, by, bz, shared, stream, hex);
  (void)function;
  const int device = (int)((int*)stack[depth - 1] - retained);
  if (gx > (unsigned)(number(device, "resident", 1) * number(device, "sms", 132))) return 720;
  if (shared > shared_limit) return 1;
  const char* pause = getenv("FAKE_CUDA_PAUSE");
  if (pause) usleep(1000u * (unsigned)atoi(pause));
  return getenv("FAKE_CUDA_RUN") ? pretend(parameters[0], inside) : 0;
}
#endif
