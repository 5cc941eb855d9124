// A c10d::Store whose every operation is done by Rust.
#pragma once

#include "shim.h"

#include <torch/csrc/distributed/c10d/Store.hpp>

extern "C" {
struct TrSlice {
  const uint8_t* data;
  size_t size;
};

// The functions of the Rust side. They return 0 on success; otherwise they have written a message into `error`.
// `value` and `error` are byte vectors, filled through tr_bytes_append.
struct TrStoreTable {
  int (*set)(void* self, TrSlice key, TrSlice value, void* error);
  int (*get)(void* self, TrSlice key, int64_t timeout_ms, void* value, void* error);
  int (*add)(void* self, TrSlice key, int64_t amount, int64_t* result, void* error);
  int (*compare_set)(void* self, TrSlice key, TrSlice expected, TrSlice desired, void* value, void* error);
  int (*wait)(void* self, const TrSlice* keys, size_t count, int64_t timeout_ms, void* error);
  int (*check)(void* self, const TrSlice* keys, size_t count, int* result, void* error);
  int (*remove)(void* self, TrSlice key, int* result, void* error);
  int (*count)(void* self, int64_t* result, void* error);
  void (*drop)(void* self);
};
}

namespace trireme {

class RustStore final : public c10d::Store {
 public:
  // Takes over `self`: it is given to `drop` when the last user of the store is gone.
  RustStore(void* self, const TrStoreTable& table, std::chrono::milliseconds timeout)
      : c10d::Store(timeout), self_(self), table_(table) {}
  ~RustStore() override {
    table_.drop(self_);
  }
  RustStore(const RustStore&) = delete;
  RustStore& operator=(const RustStore&) = delete;

  using c10d::Store::set;
  using c10d::Store::compareSet;
  c10::intrusive_ptr<c10d::Store> clone() override;
  void set(const std::string& key, const std::vector<uint8_t>& value) override;
  std::vector<uint8_t> compareSet(
      const std::string& key,
      const std::vector<uint8_t>& expected,
      const std::vector<uint8_t>& desired) override;
  std::vector<uint8_t> get(const std::string& key) override;
  int64_t add(const std::string& key, int64_t amount) override;
  bool deleteKey(const std::string& key) override;
  bool check(const std::vector<std::string>& keys) override;
  int64_t getNumKeys() override;
  void wait(const std::vector<std::string>& keys) override;
  void wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) override;

 private:
  void* self_;
  TrStoreTable table_;
};

} // namespace trireme
