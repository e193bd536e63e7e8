#include "emulate/context.h"

#include <cstdint>
#include <cstring>

extern "C" void wf_switch_context(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.globl wf_switch_context
.hidden wf_switch_context
.type wf_switch_context, @function
wf_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size wf_switch_context, .-wf_switch_context
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl wf_switch_context
.hidden wf_switch_context
.type wf_switch_context, %function
wf_switch_context:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size wf_switch_context, .-wf_switch_context
)");
#endif

namespace wavernn_fast::emulate {

#if defined(__x86_64__) || defined(__aarch64__)

bool has_contexts() { return true; }

void switch_context(void** save, void* load) { wf_switch_context(save, load); }

void* make_context(char* stack, size_t bytes, void (*start)()) {
  uintptr_t top = (reinterpret_cast<uintptr_t>(stack) + bytes) & ~uintptr_t(63);
#if defined(__x86_64__)
  // Six saved registers, the address to return to, and the alignment a called function expects.
  void** frame = reinterpret_cast<void**>(top) - 8;
  std::memset(frame, 0, 8 * sizeof(void*));
  frame[6] = reinterpret_cast<void*>(start);
#else
  void** frame = reinterpret_cast<void**>(top) - 20;
  std::memset(frame, 0, 20 * sizeof(void*));
  frame[11] = reinterpret_cast<void*>(start);  // x30
#endif
  return frame;
}

#else

bool has_contexts() { return false; }
void switch_context(void**, void*) {}
void* make_context(char*, size_t, void (*)()) { return nullptr; }

#endif

}  // namespace wavernn_fast::emulate
