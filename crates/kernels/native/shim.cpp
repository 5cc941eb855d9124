// The part of the calling convention that is code: see shim.h.
#include "shim.h"

#include <cstdlib>

namespace trireme {

void align_by_hand(); // memory.cpp

namespace {

// Before main, since whoever has taken memory without a DataPtr must leave it to the same allocator; and here, since every
// program that calls the shim has this file.
__attribute__((constructor)) void before_main() {
  align_by_hand();
}

} // namespace
} // namespace trireme

extern "C" void tr_text_free(char* text) {
  free(text);
}
