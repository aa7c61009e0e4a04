// Compiled in front of every CUDA source (-include): what nvcc and the GPU provide, for a C++ compiler and a CPU.
// Types and declarations are the toolkit's own; what of it is called and not defined in this folder does not link.
#pragma once

#include <cuda_runtime.h>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <string.h>

#include <atomic>
#include <functional>
#include <memory>
#include <tuple>

// After the toolkit's headers, which then give their host versions.
#ifndef TGLO_EMULATED_ARCH
#define TGLO_EMULATED_ARCH 900
#endif
#define __CUDA_ARCH__ TGLO_EMULATED_ARCH

#undef __launch_bounds__
#define __launch_bounds__(...)
#undef __grid_constant__
#define __grid_constant__

// Of the CUDA thread that runs now; the scheduler sets them.
extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

namespace emulation {

// A line of the kernels' source.
struct Site {
  const char* file;
  int line;
  bool operator==(const Site& other) const { return line == other.line && (file == other.file || strcmp(file, other.file) == 0); }
};

// What a CUDA thread asks of its warp, block, cluster and scheduler. A fault ends the launch and is reported.
void block_barrier(Site site);
uint64_t warp_exchange(Site site, unsigned mask, uint64_t value, int source_lane);
unsigned warp_ballot(Site site, unsigned mask, bool value);
uint64_t cluster_arrive(Site site);
void cluster_wait(Site site, uint64_t token);
void grid_barrier(Site site);
void* cluster_map(Site site, void* pointer, unsigned rank);
unsigned cluster_rank();
unsigned cluster_blocks();
void sleep_awhile();      // others run first
void before_load();       // of an atomic: others may run first
void before_update();     // likewise
[[noreturn]] void fault(cudaError_t error, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Memory of the block: exact in size, its bytes all 1 (NaN) at the block's start.
void* shared_memory(Site site, size_t size, size_t alignment);
void* dynamic_shared_memory(size_t alignment);

template <class T>
using Same = T;  // spells arrays as types

template <class T>
inline T& shared(Site site) {
  return *static_cast<T*>(shared_memory(site, sizeof(T), alignof(T)));
}

// True if the environment's TGLO_EMULATED_FAULT is this number: code with planted faults asks.
extern int chosen_fault;
inline bool planted(int number) { return number == chosen_fault; }

// ---- kernels and launches

struct Kernel {
  const void* function;
  const char* name;
  size_t static_shared;
  int most_threads, least_blocks;  // 0: not given
  std::function<void()> (*bind)(const void* function, void** arguments);
};
bool record(const Kernel& kernel);

template <class... P>
constexpr auto binder(void (*)(P...)) {
  return +[](const void* function, void** arguments) -> std::function<void()> {
    const auto kernel = reinterpret_cast<void (*)(P...)>(const_cast<void*>(function));
    return [&]<size_t... I>(std::index_sequence<I...>) -> std::function<void()> {
      const auto copies = std::make_shared<std::tuple<P...>>(*static_cast<P*>(arguments[I])...);
      return [kernel, copies] { std::apply(kernel, *copies); };
    }(std::index_sequence_for<P...>());
  };
}

// Named in the body of every kernel, so that its address is known with these facts before main.
template <auto kernel, size_t static_shared, int most_threads = 0, int least_blocks = 0>
struct Facts {
  static const char* name() { return __PRETTY_FUNCTION__; }
  static inline const bool known =
      record({reinterpret_cast<const void*>(kernel), name(), static_shared, most_threads, least_blocks, binder(kernel)});
};
inline void keep(const bool*) {}

// kernel<<<grid, threads, shared, stream>>>(...) in two calls.
template <class... P>
struct Launcher {
  void (*kernel)(P...);
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;

  void operator()(P... arguments) const {
    void* pointers[sizeof...(P) + 1] = {&arguments...};
    cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, shared, stream);
  }
};

template <class... P>
Launcher<P...> launcher(
    void (*kernel)(P...), dim3 grid, dim3 block, size_t shared = 0, cudaStream_t stream = nullptr) {
  return {kernel, grid, block, shared, stream};
}

// ---- memory

template <class T>
inline const T* aligned(const T* from) {
  if (reinterpret_cast<uintptr_t>(from) % sizeof(T))
    fault(cudaErrorMisalignedAddress, "an access of %zu bytes to %p", sizeof(T), static_cast<const void*>(from));
  return from;
}

template <class T>
inline T atomic_load(T* from, std::memory_order order) {
  before_load();
  return std::atomic_ref<T>(*from).load(order);
}
template <class T>
inline void atomic_store(T* to, T value, std::memory_order order) {
  before_update();
  std::atomic_ref<T>(*to).store(value, order);
}
template <class T>
inline T atomic_add(T* to, T value, std::memory_order order) {
  before_update();
  return std::atomic_ref<T>(*to).fetch_add(value, order);
}

template <class T>
inline uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle takes up to eight bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}
template <class T>
inline T from_bits(uint64_t bits) {
  T value;
  memcpy(&value, &bits, sizeof(T));
  return value;
}
inline void warp_barrier(Site site, unsigned mask = 0xffffffffu) { warp_ballot(site, mask, true); }
inline int lane() { return static_cast<int>(threadIdx.x % 32); }

template <class T>
inline T shuffle(Site site, unsigned mask, T value, int source) {
  return from_bits<T>(warp_exchange(site, mask, to_bits(value), source));
}
template <class T>
inline T shuffle_down(Site site, unsigned mask, T value, int by) {
  return shuffle(site, mask, value, lane() + by < 32 ? lane() + by : lane());
}

}  // namespace emulation

#include "intrinsics.h"
