// The emulated device, chosen by TGLO_EMULATED_DEVICE; one a process, since the kernels keep what they ask of it.
#pragma once

#include <stddef.h>

namespace emulation {

struct Device {
  const char* name;
  int major, minor, multiprocessors;
  int shared_each;      // bytes of a multiprocessor
  int shared_most;      // of a block that asks for it
  int threads_each, blocks_each;
  int cache;            // bytes of the second level
  int largest_cluster;  // multiprocessors that can hold one cluster together
};

constexpr int reserved_shared = 1024;        // of each block, by the system
constexpr int shared_without_asking = 48 << 10;
constexpr int registers_each = 65536;        // of a multiprocessor
constexpr int most_block_threads = 1024;

const Device& device();
int device_count();

// Blocks of a kernel that a multiprocessor holds.
int resident_blocks(int threads, size_t shared, int registers);

}  // namespace emulation
