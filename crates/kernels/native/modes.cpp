// Modes of libtorch that tch does not bind.
#include "shim.h"

#include <ATen/Context.h>
#include <ATen/autocast_mode.h>

#include <cstdlib>

namespace {

// cuBLAS gives the same bits every time only with workspaces of fixed sizes, and reads this when it is first used; who
// sets it wins. Before main, because setenv races with every getenv of other threads.
__attribute__((constructor)) void with_fixed_workspaces() {
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
}

} // namespace

extern "C" {

// An operator that cannot give the same bits every time is an error; with mere warnings, attention would not even try.
// Memory that is not yet written is not filled: nothing here reads it.
char* tr_deterministic_algorithms() {
  return trireme::guarded([&] {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);
    at::globalContext().setDeterministicFillUninitializedMemory(false);
  });
}

// From here to its end, matrix products of this thread take bfloat16.
char* tr_autocast_begin(int cuda) {
  return trireme::guarded([&] {
    const auto device = cuda != 0 ? at::kCUDA : at::kCPU;
    at::autocast::set_autocast_dtype(device, at::kBFloat16);
    at::autocast::set_autocast_enabled(device, true);
    at::autocast::increment_nesting();
  });
}

char* tr_autocast_end(int cuda) {
  return trireme::guarded([&] {
    at::autocast::set_autocast_enabled(cuda != 0 ? at::kCUDA : at::kCPU, false);
    if (at::autocast::decrement_nesting() == 0) {
      at::autocast::clear_cache(); // of weights in bfloat16
    }
  });
}

int tr_autocast_is_on() {
  return at::autocast::is_autocast_enabled(at::kCPU) ? 1 : 0;
}

} // extern "C"
