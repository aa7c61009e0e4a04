// Shared by the interfaces between the bindings and the kernels: no torch types, no CUDA types.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define TGLO_HOST_DEVICE __host__ __device__
#else
#define TGLO_HOST_DEVICE
#endif

// The namespaces that the CPU kernels are compiled in.
#ifdef TGLO_HAS_AVX2
#define TGLO_FOR_EACH_INSTRUCTION_SET(declaration) \
  namespace baseline { declaration }               \
  namespace avx2 { declaration }
#else
#define TGLO_FOR_EACH_INSTRUCTION_SET(declaration) namespace baseline { declaration }
#endif

namespace tglo {

enum class Element : int32_t { bfloat16, float16, float32 };

// Raised when an operator's arguments change; tglo/ops/extension.py refuses an extension of another version.
constexpr int64_t interface_version = 6;

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

}  // namespace tglo
