// The plain interface between the bindings and the kernels: no torch types, no CUDA types.
// A "row" is one draw's prediction: `elements` numbers that lie next to each other in memory.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define TGLO_HOST_DEVICE __host__ __device__
#else
#define TGLO_HOST_DEVICE
#endif

namespace tglo {

enum class Element : int32_t { bfloat16, float16, float32 };

enum class Reduction : int32_t { none, mean, sum };

// Raised when an operator's arguments change; tglo/ops/extension.py refuses an extension of another version.
constexpr int64_t interface_version = 3;

// A vector of float32 or float64, read as float64. Null data: none; stride 0: one number for all.
struct Numbers {
  const void* data;
  int64_t stride;
  bool wide;

  TGLO_HOST_DEVICE double operator[](int64_t i) const {
    return wide ? static_cast<const double*>(data)[i * stride]
                : static_cast<double>(static_cast<const float*>(data)[i * stride]);
  }
};

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

// Of one row of logits, bias included.
struct TokenRow {
  float log_prob;   // of the true token; NaN if that is not in the vocabulary
  float logsumexp;
};

struct CpuTokenKernels {
  // `bias` may be null.
  TokenRow (*log_prob)(const float* logits, const float* bias, int64_t vocabulary, int64_t token);
  // gradient[v] = scale ([v == token] - exp(logits[v] + bias[v] - logsumexp)); it may be logits itself.
  void (*gradient)(
      const float* logits, const float* bias, float* gradient, int64_t vocabulary, int64_t token,
      float logsumexp, float scale);
};

// out = scale * latents + noise_scale * noise over blocks of four elements; see philox.h for the noise.
struct NoiseRow {
  float scale, noise_scale;
  uint64_t sample_id;
  uint32_t draw, seed, purpose;
};

struct CpuNoiseKernels {
  // Elements [first, first + count) of a row; `first` is a multiple of 4, the pointers are to element `first`.
  void (*diffuse)(
      Element type, const void* latents, void* out, int64_t first, int64_t count, const NoiseRow& row);
};

namespace baseline {
extern const CpuKernels cpu_kernels;
extern const CpuNoiseKernels cpu_noise_kernels;
extern const CpuTokenKernels cpu_token_kernels;
}
#ifdef TGLO_HAS_AVX2
namespace avx2 {
extern const CpuKernels cpu_kernels;
extern const CpuNoiseKernels cpu_noise_kernels;
extern const CpuTokenKernels cpu_token_kernels;
}
#endif

}  // namespace tglo
