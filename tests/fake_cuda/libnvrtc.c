/* A stand-in for NVRTC, built by the tests as several versions (FAKE_VERSION 1209 is 12.9). What it
 * makes is text that tells of what: an "ELF" with target, version and length of the source.
 *
 * FAKE_NVRTC_LOG    log of a compilation that succeeds
 * FAKE_NVRTC_ERROR  log of a compilation that fails
 * FAKE_NVRTC_CALLS  file to which every compilation is appended: version and options
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct Program {
  char image[256], log[4096], target[64];
  size_t source_bytes;
};

#if FAKE_VERSION >= 1300
static const int archs[] = {75, 80, 86, 89, 90, 100, 103, 120, 121};
#else
static const int archs[] = {50, 60, 61, 70, 75, 80, 86, 89, 90, 100, 103, 120, 121};
#endif
enum { kArchs = sizeof archs / sizeof archs[0] };

const char* nvrtcGetErrorString(int code) {
  return code == 6 ? "NVRTC_ERROR_COMPILATION" : "NVRTC_ERROR_OTHER";
}

int nvrtcVersion(int* major, int* minor) {
  *major = FAKE_VERSION / 100;
  *minor = FAKE_VERSION % 100;
  return 0;
}

int nvrtcGetNumSupportedArchs(int* count) { return *count = kArchs, 0; }

int nvrtcGetSupportedArchs(int* list) { return memcpy(list, archs, sizeof archs), 0; }

int nvrtcCreateProgram(struct Program** program, const char* source, const char* name, int headers,
                       const char* const* texts, const char* const* names) {
  (void)name, (void)names;
  *program = calloc(1, sizeof **program);
  (*program)->source_bytes = strlen(source);
  for (int i = 0; i < headers; ++i) (*program)->source_bytes += strlen(texts[i]);
  return 0;
}

int nvrtcDestroyProgram(struct Program** program) {
  free(*program);
  *program = NULL;
  return 0;
}

int nvrtcCompileProgram(struct Program* program, int count, const char* const* options) {
  const char* error = getenv("FAKE_NVRTC_ERROR");
  const char* log = getenv("FAKE_NVRTC_LOG");
  const char* path = getenv("FAKE_NVRTC_CALLS");
  FILE* file = path ? fopen(path, "a") : NULL;
  if (file) fprintf(file, "%d", FAKE_VERSION);
  for (int i = 0; i < count; ++i) {
    if (file) fprintf(file, " %s", options[i]);
    if (strncmp(options[i], "--gpu-architecture=", 19) == 0)
      snprintf(program->target, sizeof program->target, "%s", options[i] + 19);
  }
  if (file) fprintf(file, "\n"), fclose(file);
  snprintf(program->log, sizeof program->log, "%s",
           error ? error
           : log ? log
                 : "ptxas info    : Used 200 registers");
  return error ? 6 : 0;
}

int nvrtcGetProgramLogSize(struct Program* program, size_t* bytes) {
  return *bytes = strlen(program->log) + 1, 0;
}

int nvrtcGetProgramLog(struct Program* program, char* text) {
  return strcpy(text, program->log), 0;
}

#ifndef WITHOUT_CUBIN
int nvrtcGetCUBINSize(struct Program* program, size_t* bytes) {
  snprintf(program->image, sizeof program->image,
           "\x7f"
           "ELF %s by %d from %zu\n",
           program->target, FAKE_VERSION, program->source_bytes);
  return *bytes = strlen(program->image), 0;
}

int nvrtcGetCUBIN(struct Program* program, char* bytes) {
  return memcpy(bytes, program->image, strlen(program->image)), 0;
}
#endif

int nvrtcGetPTXSize(struct Program* program, size_t* bytes) {
  snprintf(program->image, sizeof program->image, "// %s by %d from %zu\n", program->target,
           FAKE_VERSION, program->source_bytes);
  return *bytes = strlen(program->image) + 1, 0;
}

int nvrtcGetPTX(struct Program* program, char* bytes) { return strcpy(bytes, program->image), 0; }
