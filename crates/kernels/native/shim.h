// What all parts of the shim share: the calling convention across the language boundary.
//
// Every function returns null on success or a heap-allocated message, which the caller frees with tr_text_free. No C++
// exception ever leaves the shim, and no Rust panic ever enters it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <cstdint>
#include <cstring>
#include <exception>
#include <vector>

namespace trireme {

void set_cpu_allocator(); // memory.cpp

inline char* copy_text(const char* text) {
  return strdup(text);
}

template <typename F>
char* guarded(const F& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const c10::Error& error) {
    return copy_text(error.what_without_backtrace());
  } catch (const std::exception& error) {
    return copy_text(error.what());
  } catch (...) {
    return copy_text("an exception that is not a std::exception");
  }
}

// Tensors come as tch's own pointers: at::Tensor*, borrowed for the length of the call.
inline std::vector<at::Tensor> collect(at::Tensor* const* tensors, size_t count) {
  std::vector<at::Tensor> result;
  result.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    result.push_back(*tensors[i]);
  }
  return result;
}

} // namespace trireme
