// The plain interface of the loss's kernels: no torch types, no CUDA types.
// A "row" is one draw's prediction: `elements` numbers that lie next to each other in memory.
#pragma once

#include "common/launch.h"

namespace tglo {

enum class Reduction : int32_t { none, mean, sum };

// Weights of a row's elements: element i of row r has data[r * row_stride + (i / inner) % period]. Null data: all 1.
struct Mask {
  const float* data;
  int64_t row_stride;  // 0: one mask for all rows
  int64_t inner, period;
};

// Sums over a part of a row, with m the mask. Parts are cut the same way whatever the batch and the number of threads,
// and added in order.
struct PartialSums {
  double policy_error;      // sum m (p - y)^2
  double error_difference;  // sum m (p - q)(p + q - 2y)
  double weight;            // sum m; the count without a mask
};

// The CPU kernels of one instruction set. All pointers are to the first element of the part; `mask` is of its row and
// `first` the part's place in the row.
struct CpuKernels {
  // `reference` may be null: then error_difference is 0.
  PartialSums (*sums)(
      Element type, const void* policy, const void* target, const void* reference, int64_t elements,
      const Mask& mask, int64_t first);
  // gradient = coefficient * m (policy - target), rounded to nearest even.
  void (*gradient)(
      Element type, const void* policy, const void* target, void* gradient, int64_t elements,
      double coefficient, const Mask& mask, int64_t first);
};

TGLO_FOR_EACH_INSTRUCTION_SET(extern const CpuKernels cpu_kernels;)

}  // namespace tglo
