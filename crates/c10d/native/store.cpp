#include "store.h"

namespace trireme {
namespace {

TrSlice slice(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

TrSlice slice(const std::vector<uint8_t>& bytes) {
  return {bytes.data(), bytes.size()};
}

std::vector<TrSlice> slices(const std::vector<std::string>& keys) {
  std::vector<TrSlice> result;
  result.reserve(keys.size());
  for (const auto& key : keys) {
    result.push_back(slice(key));
  }
  return result;
}

void check_status(int status, const std::vector<uint8_t>& error) {
  if (status != 0) {
    C10_THROW_ERROR(DistStoreError, std::string(error.begin(), error.end()));
  }
}

} // namespace

c10::intrusive_ptr<c10d::Store> RustStore::clone() {
  // The Rust side is thread-safe, so a clone may be the store itself.
  return c10::intrusive_ptr<c10d::Store>::reclaim_copy(this);
}

void RustStore::set(const std::string& key, const std::vector<uint8_t>& value) {
  std::vector<uint8_t> error;
  check_status(table_.set(self_, slice(key), slice(value), &error), error);
}

std::vector<uint8_t> RustStore::compareSet(
    const std::string& key,
    const std::vector<uint8_t>& expected,
    const std::vector<uint8_t>& desired) {
  std::vector<uint8_t> value, error;
  check_status(table_.compare_set(self_, slice(key), slice(expected), slice(desired), &value, &error), error);
  return value;
}

std::vector<uint8_t> RustStore::get(const std::string& key) {
  std::vector<uint8_t> value, error;
  check_status(table_.get(self_, slice(key), timeout_.count(), &value, &error), error);
  return value;
}

int64_t RustStore::add(const std::string& key, int64_t amount) {
  int64_t result = 0;
  std::vector<uint8_t> error;
  check_status(table_.add(self_, slice(key), amount, &result, &error), error);
  return result;
}

bool RustStore::deleteKey(const std::string& key) {
  int result = 0;
  std::vector<uint8_t> error;
  check_status(table_.remove(self_, slice(key), &result, &error), error);
  return result != 0;
}

bool RustStore::check(const std::vector<std::string>& keys) {
  int result = 0;
  std::vector<uint8_t> error;
  const auto list = slices(keys);
  check_status(table_.check(self_, list.data(), list.size(), &result, &error), error);
  return result != 0;
}

int64_t RustStore::getNumKeys() {
  int64_t result = 0;
  std::vector<uint8_t> error;
  check_status(table_.count(self_, &result, &error), error);
  return result;
}

void RustStore::wait(const std::vector<std::string>& keys) {
  wait(keys, timeout_);
}

void RustStore::wait(const std::vector<std::string>& keys, const std::chrono::milliseconds& timeout) {
  std::vector<uint8_t> error;
  const auto list = slices(keys);
  check_status(table_.wait(self_, list.data(), list.size(), timeout.count(), &error), error);
}

} // namespace trireme

extern "C" {

void tr_bytes_append(void* bytes, const uint8_t* data, size_t size) {
  auto* target = static_cast<std::vector<uint8_t>*>(bytes);
  target->insert(target->end(), data, data + size);
}

} // extern "C"
