#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

namespace emulation {
namespace {

// From NVIDIA's tables; the small ones are invented, so that few elements fill them.
constexpr Device devices[] = {
    {"h100", 9, 0, 132, 228 << 10, 227 << 10, 2048, 32, 50 << 20, 16},
    {"a100", 8, 0, 108, 164 << 10, 163 << 10, 2048, 32, 40 << 20, 0},
    {"rtx4090", 8, 9, 128, 100 << 10, 99 << 10, 1536, 24, 72 << 20, 0},
    {"small90", 9, 0, 8, 41 << 10, 40 << 10, 2048, 32, 256 << 10, 8},
    {"small80", 8, 0, 3, 49 << 10, 48 << 10, 2048, 32, 256 << 10, 0},
    {"single80", 8, 0, 1, 49 << 10, 48 << 10, 1536, 16, 64 << 10, 0},
    {"narrow90", 9, 0, 2, 41 << 10, 40 << 10, 2048, 32, 256 << 10, 2},  // no cluster of four fits
};

const Device& choose() {
  const char* name = getenv("TGLO_EMULATED_DEVICE");
  if (!name || !*name) return devices[0];
  for (const Device& known : devices)
    if (!strcmp(known.name, name)) return known;
  fprintf(stderr, "emulation: TGLO_EMULATED_DEVICE=%s is none of", name);
  for (const Device& known : devices) fprintf(stderr, " %s", known.name);
  fprintf(stderr, "\n");
  exit(2);
}

}  // namespace

int chosen_fault = -1;

// Before the constants of other files, which may depend on it.
__attribute__((constructor(101))) static void choose_fault() {
  if (const char* number = getenv("TGLO_EMULATED_FAULT")) chosen_fault = atoi(number);
}

const Device& device() {
  static const Device& chosen = choose();
  return chosen;
}

int device_count() {
  const char* count = getenv("TGLO_EMULATED_DEVICES");
  return count ? atoi(count) : 1;
}

int resident_blocks(int threads, size_t shared, int registers) {
  const Device& own = device();
  const int each = static_cast<int>(shared) + reserved_shared;
  return std::min({own.threads_each / threads, own.blocks_each, own.shared_each / each,
                   registers_each / (registers * threads)});
}

}  // namespace emulation
