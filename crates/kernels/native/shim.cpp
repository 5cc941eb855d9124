// The part of the calling convention that is code: see shim.h.
#include "shim.h"

#include <cstdlib>

namespace {

// Before main, because oneDNN leaves memory to whichever allocator is set by then; and in this file, because every call that
// can fail needs tr_text_free, for which the linker takes it (memory.cpp alone it would leave out).
__attribute__((constructor)) void before_main() {
  trireme::set_cpu_allocator();
}

} // namespace

extern "C" void tr_text_free(char* text) {
  free(text);
}
