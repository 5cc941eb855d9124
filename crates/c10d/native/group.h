// One group: a backend and, for the Reducer, the ProcessGroup around it.
#pragma once

#include "store.h"
#include "waits.h"

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

struct TrGroup {
  c10::intrusive_ptr<c10d::Store> store;
  c10::intrusive_ptr<c10d::Backend> backend;
  c10d::ProcessGroup::BackendType type;
  c10::DeviceType device;
  int tag = 0; // of the next messages between two members; all members count alike
  std::unique_ptr<trireme::Waits> waits; // Gloo's; NCCL waits in the device's streams
};
