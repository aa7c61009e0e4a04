// The plain interface between the binding and the kernels: no torch types, no CUDA types.
// A "row" is one draw's prediction: `elements` numbers that lie next to each other in memory.
#pragma once

#include <stdint.h>

namespace tglo {

enum class Element : int32_t { bfloat16, float16, float32 };

enum class Reduction : int32_t { none, mean, sum };

// Raised when an operator's arguments change; tglo/ops.py refuses an extension of another version.
constexpr int64_t interface_version = 1;

// Sums over a part of a row. Parts are cut the same way whatever the number of threads, and added in order.
struct PartialSums {
  double policy_error;      // sum (p - y)^2
  double error_difference;  // sum (p - q)(p + q - 2y)
};

// The CPU kernels of one instruction set. All pointers are to the first element of the part.
struct CpuKernels {
  // `reference` may be null: then error_difference is 0.
  PartialSums (*sums)(
      Element type, const void* policy, const void* target, const void* reference, int64_t elements);
  // gradient = coefficient * (policy - target), rounded to nearest even.
  void (*gradient)(
      Element type, const void* policy, const void* target, void* gradient, int64_t elements,
      double coefficient);
};

namespace baseline {
extern const CpuKernels cpu_kernels;
}
#ifdef TGLO_HAS_AVX2
namespace avx2 {
extern const CpuKernels cpu_kernels;
}
#endif

}  // namespace tglo
