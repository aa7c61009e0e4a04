// Shared by all CUDA kernels: 16-byte access to rows of numbers, sums over a block, an atomic counter.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <string.h>

#include "common/launch.h"

namespace tglo {

constexpr int vector_length = 8;  // elements that a thread takes at once: one 16-byte access, two for float32
constexpr int threads_per_warp = 32;

struct Vector8 {
  float at[vector_length];
};

// An error that is handed on as a number is not left behind for the next caller of cudaGetLastError.
inline int settled(cudaError_t error) {
  if (error != cudaSuccess) cudaGetLastError();
  return error;
}

// Launches on the device of the tensors, whatever the calling thread's current one is.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : error(cudaGetDevice(&previous_)) {
    if (error == cudaSuccess && previous_ != device) {
      error = cudaSetDevice(device);
      restore_ = error == cudaSuccess;
    }
    settled(error);
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
  static __device__ void pause() { __nanosleep(20); }
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

template <class To, class From>
__device__ inline To bits_of(const From& from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(static_cast<void*>(&to), &from, sizeof(To));
  return to;
}

// Two neighbours of a 16-bit type in one word, the first in its lower half.
template <class T>
__device__ inline uint32_t pack(float first, float second);
template <>
__device__ inline uint32_t pack<__half>(float first, float second) {
  return bits_of<uint32_t>(__floats2half2_rn(first, second));
}
template <>
__device__ inline uint32_t pack<__nv_bfloat16>(float first, float second) {
  return bits_of<uint32_t>(__floats2bfloat162_rn(first, second));
}

template <class T>
__device__ inline void unpack(uint32_t word, float* to);
template <>
__device__ inline void unpack<float>(uint32_t word, float* to) { to[0] = bits_of<float>(word); }
template <>
__device__ inline void unpack<__half>(uint32_t word, float* to) {
  const float2 pair = __half22float2(bits_of<__half2>(word));
  to[0] = pair.x;
  to[1] = pair.y;
}
template <>
__device__ inline void unpack<__nv_bfloat16>(uint32_t word, float* to) {
  to[0] = bits_of<float>(word << 16);
  to[1] = bits_of<float>(word & 0xffff0000u);
}

// Read once: what lies in the caches is to stay there.
template <bool once>
__device__ inline uint4 load_words(const void* from) {
  return once ? __ldcs(static_cast<const uint4*>(from)) : __ldg(static_cast<const uint4*>(from));
}

// Elements [i, i + 8) of a row as they came from memory: what is done with them later does not wait for them earlier.
template <bool aligned, class T>
struct Loaded {
  static constexpr int each = sizeof(uint4) / sizeof(T), in_word = sizeof(uint32_t) / sizeof(T);
  uint4 words[vector_length / each];

  __device__ Vector8 numbers() const {
    Vector8 value;
#pragma unroll
    for (int k = 0; k < vector_length / each; ++k) {
      float* to = value.at + k * each;
      unpack<T>(words[k].x, to);
      unpack<T>(words[k].y, to + in_word);
      unpack<T>(words[k].z, to + 2 * in_word);
      unpack<T>(words[k].w, to + 3 * in_word);
    }
    return value;
  }
};
template <class T>
struct Loaded<false, T> {
  Vector8 value;
  __device__ Vector8 numbers() const { return value; }
};

// Aligned: 16-byte access, and the row ends at a multiple of 8. Beyond `end` elements are 0.
template <bool aligned, bool once, class T>
__device__ inline Loaded<aligned, T> load_later(const T* row, int64_t i, int64_t end) {
  Loaded<aligned, T> loaded;
  if constexpr (aligned) {
#pragma unroll
    for (int k = 0; k < vector_length / loaded.each; ++k) loaded.words[k] = load_words<once>(row + i + k * loaded.each);
  } else {
#pragma unroll
    for (int k = 0; k < vector_length; ++k) loaded.value.at[k] = i + k < end ? to_float(row[i + k]) : 0.0f;
  }
  return loaded;
}

template <bool aligned, bool once, class T>
__device__ inline Vector8 load(const T* row, int64_t i, int64_t end) {
  return load_later<aligned, once>(row, i, end).numbers();
}

// Of plain 16-byte stores of 16-bit numbers ptxas makes four narrow ones for sm_80 and sm_90; __stcg stays whole.
template <bool aligned, class T>
__device__ inline void store(T* row, int64_t i, int64_t end, const Vector8& value) {
  const float* v = value.at;
  if constexpr (aligned && sizeof(T) == sizeof(float)) {
    float4* to = reinterpret_cast<float4*>(row + i);
    __stcg(to, make_float4(v[0], v[1], v[2], v[3]));
    __stcg(to + 1, make_float4(v[4], v[5], v[6], v[7]));
  } else if constexpr (aligned) {
    __stcg(
        reinterpret_cast<uint4*>(row + i),
        make_uint4(pack<T>(v[0], v[1]), pack<T>(v[2], v[3]), pack<T>(v[4], v[5]), pack<T>(v[6], v[7])));
  } else {
#pragma unroll
    for (int k = 0; k < vector_length; ++k)
      if (i + k < end) row[i + k] = from_float<T>(v[k]);
  }
}

__host__ __device__ inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % sizeof(uint4) == 0; }

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

// kernel<<<grid, threads, 0, stream>>>(arguments...), whose own error is the result and not one that was there before.
template <class... Parameters, class... Arguments>
int launch(void (*kernel)(Parameters...), dim3 grid, int threads, void* stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.stream = static_cast<cudaStream_t>(stream);
  return settled(cudaLaunchKernelEx(&config, kernel, arguments...));
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
