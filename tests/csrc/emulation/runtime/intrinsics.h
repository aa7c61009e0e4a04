// The device functions and variables of CUDA that the kernels use, by CUDA's names.
#pragma once

#define TGLO_SITE (::emulation::Site{__FILE__, __LINE__})
#define __syncthreads() ::emulation::block_barrier(TGLO_SITE)
#define __syncwarp(...) ::emulation::warp_barrier(TGLO_SITE __VA_OPT__(, ) __VA_ARGS__)
#define __shfl_sync(mask, value, from) ::emulation::shuffle(TGLO_SITE, mask, value, from)
#define __shfl_xor_sync(mask, value, by) ::emulation::shuffle(TGLO_SITE, mask, value, ::emulation::lane() ^ (by))
#define __shfl_down_sync(mask, value, by) ::emulation::shuffle_down(TGLO_SITE, mask, value, by)
#define __ballot_sync(mask, value) ::emulation::warp_ballot(TGLO_SITE, mask, value)
#define __any_sync(mask, value) (::emulation::warp_ballot(TGLO_SITE, mask, value) != 0)
#define __all_sync(mask, value) (::emulation::warp_ballot(TGLO_SITE, mask, value) == (mask))

inline void __nanosleep(unsigned) { ::emulation::sleep_awhile(); }
inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { std::atomic_thread_fence(std::memory_order_seq_cst); }

// Loads and stores that go past a cache or leave it alone are ordinary ones here; they must be aligned.
#define TGLO_LOAD(name) \
  template <class T> inline T name(const T* from) { return *::emulation::aligned(from); }
TGLO_LOAD(__ldg)
TGLO_LOAD(__ldca)
TGLO_LOAD(__ldcs)
TGLO_LOAD(__ldcg)
TGLO_LOAD(__ldlu)
TGLO_LOAD(__ldcv)
#undef TGLO_LOAD
#define TGLO_STORE(name) \
  template <class T> inline void name(T* to, T value) { *const_cast<T*>(::emulation::aligned(to)) = value; }
TGLO_STORE(__stwb)
TGLO_STORE(__stcg)
TGLO_STORE(__stcs)
TGLO_STORE(__stwt)
#undef TGLO_STORE

template <class T>
inline T atomicAdd(T* to, T value) { return ::emulation::atomic_add(to, value, std::memory_order_relaxed); }

inline float __uint_as_float(unsigned bits) { return ::emulation::from_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return static_cast<unsigned>(::emulation::to_bits(value)); }
inline float __int_as_float(int bits) { return ::emulation::from_bits<float>(static_cast<unsigned>(bits)); }
inline int __float_as_int(float value) { return static_cast<int>(::emulation::to_bits(value)); }
inline float __fsqrt_rn(float value) { return sqrtf(value); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __expf(float value) { return expf(value); }
inline unsigned __umulhi(unsigned a, unsigned b) {
  return static_cast<unsigned>((static_cast<unsigned long long>(a) * b) >> 32);
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __clz(int value) { return value ? __builtin_clz(static_cast<unsigned>(value)) : 32; }

inline void cudaGridDependencySynchronize() {}  // launches of a stream take turns here
inline void cudaTriggerProgrammaticLaunchCompletion() {}

// The typed forms of calls that take a kernel; the toolkit gives them to nvcc alone.
template <class... P>
inline cudaError_t cudaFuncSetAttribute(void (*kernel)(P...), cudaFuncAttribute attribute, int value) {
  return cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), attribute, value);
}
template <class... P>
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, void (*kernel)(P...)) {
  return cudaFuncGetAttributes(attributes, reinterpret_cast<const void*>(kernel));
}
template <class... P>
inline cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(
    int* blocks, void (*kernel)(P...), int threads, size_t shared) {
  return cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      blocks, reinterpret_cast<const void*>(kernel), threads, shared);
}
template <class... P>
inline cudaError_t cudaOccupancyMaxActiveClusters(
    int* clusters, void (*kernel)(P...), const cudaLaunchConfig_t* config) {
  return cudaOccupancyMaxActiveClusters(clusters, reinterpret_cast<const void*>(kernel), config);
}
template <class... P>
inline cudaError_t cudaLaunchCooperativeKernel(
    void (*kernel)(P...), dim3 grid, dim3 block, void** arguments, size_t shared = 0, cudaStream_t stream = nullptr) {
  return cudaLaunchCooperativeKernel(
      reinterpret_cast<const void*>(kernel), grid, block, arguments, shared, stream);
}
