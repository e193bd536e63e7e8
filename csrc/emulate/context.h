// Switching between stacks: saves what a function call must preserve, and nothing else. The
// system's swapcontext also saves the signal mask, a system call each time, some 20 times as slow.
#pragma once

#include <cstddef>

namespace wavernn_fast::emulate {

// Saves the running context at *save and goes on in the one saved at `load`.
void switch_context(void** save, void* load);

// A context that begins at `start` (which never returns) on the given stack.
void* make_context(char* stack, size_t bytes, void (*start)());

// Where this processor has no switch, there is no emulator.
bool has_contexts();

}  // namespace wavernn_fast::emulate
