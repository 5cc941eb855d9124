// The part of the calling convention that is code: see shim.h.
#include "shim.h"

#include <cstdlib>

extern "C" void tr_text_free(char* text) {
  free(text);
}
