// What this build of libtorch can do.
#include <torch/version.h>

extern "C" {

const char* tr_libtorch_version() {
  return TORCH_VERSION;
}

} // extern "C"
