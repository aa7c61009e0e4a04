// Shared by all CUDA kernels: 16-byte access to rows of numbers, sums over a block, an atomic counter.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>

#include "common/launch.h"

namespace tglo {

constexpr int vector_length = 8;  // elements that a thread takes at once: one 16-byte access, two for float32
constexpr int threads_per_warp = 32;

struct Vector8 {
  float at[vector_length];
};

// Launches on the device of the tensors, whatever the calling thread's current one is.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : error(cudaGetDevice(&previous_)) {
    if (error == cudaSuccess && previous_ != device) {
      error = cudaSetDevice(device);
      restore_ = error == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (restore_) cudaSetDevice(previous_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  cudaError_t error;

 private:
  int previous_ = 0;
  bool restore_ = false;
};

struct DeviceCounter {
  static __device__ uint32_t add(uint32_t* counter, uint32_t value) {
    uint32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], %2;"
                 : "=r"(old) : "l"(counter), "r"(value) : "memory");
    return old;
  }
  static __device__ uint32_t load(uint32_t* counter) {
    uint32_t value;
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
    return value;
  }
};

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

template <class T>
__device__ inline T from_float(float value);
template <>
__device__ inline float from_float<float>(float value) { return value; }
template <>
__device__ inline __half from_float<__half>(float value) { return __float2half_rn(value); }
template <>
__device__ inline __nv_bfloat16 from_float<__nv_bfloat16>(float value) { return __float2bfloat16_rn(value); }

// Read once: what lies in the caches is to stay there.
template <bool once>
__device__ inline uint4 load_words(const void* from) {
  return once ? __ldcs(static_cast<const uint4*>(from)) : __ldg(static_cast<const uint4*>(from));
}

// Elements [i, i + 8) of a row; aligned: 16-byte access, and the row ends at a multiple of 8. Beyond `end` they are 0.
template <bool aligned, bool once, class T>
__device__ inline Vector8 load(const T* row, int64_t i, int64_t end) {
  Vector8 value;
  if constexpr (aligned) {
    constexpr int accesses = sizeof(T) * vector_length / sizeof(uint4);
    uint4 words[accesses];
#pragma unroll
    for (int k = 0; k < accesses; ++k)
      words[k] = load_words<once>(reinterpret_cast<const uint4*>(row + i) + k);
    const T* elements = reinterpret_cast<const T*>(words);
#pragma unroll
    for (int k = 0; k < vector_length; ++k) value.at[k] = to_float(elements[k]);
  } else {
#pragma unroll
    for (int k = 0; k < vector_length; ++k) value.at[k] = i + k < end ? to_float(row[i + k]) : 0.0f;
  }
  return value;
}

template <bool aligned, class T>
__device__ inline void store(T* row, int64_t i, int64_t end, const Vector8& value) {
  if constexpr (aligned) {
    constexpr int accesses = sizeof(T) * vector_length / sizeof(uint4);
    uint4 words[accesses];
    T* elements = reinterpret_cast<T*>(words);
#pragma unroll
    for (int k = 0; k < vector_length; ++k) elements[k] = from_float<T>(value.at[k]);
#pragma unroll
    for (int k = 0; k < accesses; ++k) reinterpret_cast<uint4*>(row + i)[k] = words[k];
  } else {
#pragma unroll
    for (int k = 0; k < vector_length; ++k)
      if (i + k < end) row[i + k] = from_float<T>(value.at[k]);
  }
}

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(uint4) == 0; }

__device__ inline double warp_sum(double value) {
#pragma unroll
  for (int offset = threads_per_warp / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// The sum over the block, in a fixed order, in thread 0. `scratch` holds one number a warp.
template <int threads>
__device__ inline double block_sum(double value, double* scratch) {
  constexpr int warps = threads / threads_per_warp;
  value = warp_sum(value);
  __syncthreads();  // the scratch may still be read from the last call
  if (threadIdx.x % threads_per_warp == 0) scratch[threadIdx.x / threads_per_warp] = value;
  __syncthreads();
  double total = 0.0;
  if (threadIdx.x == 0)
    for (int warp = 0; warp < warps; ++warp) total += scratch[warp];
  return total;
}

// Calls launch.template operator()<T>() with the element type; returns CUDA's error code.
template <class Launch>
int with_type(Element type, const Launch& launch) {
  switch (type) {
    case Element::bfloat16: return launch.template operator()<__nv_bfloat16>();
    case Element::float16: return launch.template operator()<__half>();
    case Element::float32: return launch.template operator()<float>();
  }
  return cudaErrorInvalidValue;
}

}  // namespace tglo
