// CUDA's functions about kernels, devices and errors, as far as they are used, with the limits of the emulated device.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <map>
#include <mutex>

#include "api.h"
#include "device.h"
#include "launch.h"

namespace emulation {
namespace {

struct Known {
  Kernel kernel;
  int most_dynamic = shared_without_asking;
};

std::map<const void*, Known>& kernels() {
  static auto& all = *new std::map<const void*, Known>;
  return all;
}
std::mutex& kernels_mutex() {
  static auto& mutex = *new std::mutex;
  return mutex;
}

bool find(const void* function, Known* found) {
  const std::lock_guard<std::mutex> lock(kernels_mutex());
  const auto entry = kernels().find(function);
  if (entry == kernels().end()) return false;
  *found = entry->second;
  return true;
}

// Not compiled by a GPU's compiler: as many as the launch bounds let a thread have, at most 128.
int registers_of(const Kernel& kernel) {
  if (!kernel.most_threads || !kernel.least_blocks) return 64;
  const int bound = registers_each / (kernel.most_threads * kernel.least_blocks);
  return bound < 128 ? bound : 128;
}

thread_local cudaError_t last = cudaSuccess;
thread_local int chosen_device = 0;
std::atomic<int> broken{cudaSuccess};  // a kernel has failed: every call fails from then on
thread_local uint64_t launches = 0;

uint64_t seed() {
  static const char* given = getenv("TGLO_EMULATED_SEED");
  return (given ? strtoull(given, nullptr, 10) : 1) * 1000003 + ++launches;
}

unsigned long long threads_of(dim3 size) { return 1ull * size.x * size.y * size.z; }

}  // namespace

bool record(const Kernel& kernel) {
  Known known = {kernel};
  const char* name = strstr(kernel.name, "kernel = ");
  name = name ? name + strlen("kernel = ") : kernel.name;
  const char* end = strstr(name, "; long unsigned int static_shared");
  known.kernel.name = strndup(name, end ? static_cast<size_t>(end - name) : strlen(name));
  const std::lock_guard<std::mutex> lock(kernels_mutex());
  kernels()[kernel.function] = known;
  return true;
}

cudaError_t result(cudaError_t error) {
  if (broken.load()) error = static_cast<cudaError_t>(broken.load());
  if (error != cudaSuccess) last = error;
  return error;
}

size_t most_shared_memory() { return static_cast<size_t>(device().shared_most); }

void fill_with_ones(char* data, size_t size) {
#if defined(__x86_64__)
  asm volatile("rep stosb" : "+D"(data), "+c"(size) : "a"(0xff) : "memory");  // memset is watched by sanitizers
#else
  for (size_t k = 0; k < size; ++k) static_cast<volatile char*>(data)[k] = static_cast<char>(0xff);
#endif
}

cudaError_t launch(const cudaLaunchConfig_t& asked, const void* function, void** arguments) {
  Known known;
  if (!find(function, &known)) return cudaErrorInvalidDeviceFunction;
  Configuration configuration = {&known.kernel, asked.gridDim, asked.blockDim, asked.dynamicSmemBytes, 1, false, {}};
  for (unsigned k = 0; k < asked.numAttrs; ++k) {
    const cudaLaunchAttribute& attribute = asked.attrs[k];
    if (attribute.id == cudaLaunchAttributeClusterDimension)
      configuration.cluster = attribute.val.clusterDim.x * attribute.val.clusterDim.y * attribute.val.clusterDim.z;
    else if (attribute.id == cudaLaunchAttributeCooperative)
      configuration.cooperative = attribute.val.cooperative != 0;
    else if (attribute.id != cudaLaunchAttributeProgrammaticStreamSerialization)
      return cudaErrorNotSupported;
  }
  const Device& own = device();
  const unsigned long long blocks = threads_of(asked.gridDim), threads = threads_of(asked.blockDim);
  if (blocks == 0 || threads == 0 || threads > most_block_threads || asked.gridDim.x > INT32_MAX ||
      asked.gridDim.y > 65535 || asked.gridDim.z > 65535)
    return cudaErrorInvalidConfiguration;
  if (known.kernel.most_threads && threads > static_cast<unsigned>(known.kernel.most_threads))
    return cudaErrorLaunchOutOfResources;
  const size_t shared = asked.dynamicSmemBytes + known.kernel.static_shared;
  if (asked.dynamicSmemBytes > static_cast<size_t>(known.most_dynamic) || shared > most_shared_memory())
    return cudaErrorInvalidValue;
  const int each = resident_blocks(static_cast<int>(threads), shared, registers_of(known.kernel));
  if (each == 0) return cudaErrorLaunchOutOfResources;
  if (configuration.cluster != 1) {
    if (own.major < 9) return cudaErrorNotSupported;
    if (configuration.cluster == 0 || configuration.cluster > 8 || blocks % configuration.cluster ||
        static_cast<int>(configuration.cluster) > own.largest_cluster * each)
      return cudaErrorInvalidClusterSize;
  }
  if (configuration.cooperative && blocks > 1ull * each * own.multiprocessors)
    return cudaErrorCooperativeLaunchTooLarge;
  configuration.body = known.kernel.bind(function, arguments);
  return queue(asked.stream, [known, configuration]() mutable -> cudaError_t {
    configuration.kernel = &known.kernel;
    const cudaError_t error = Launch(configuration, seed()).run();
    if (error != cudaSuccess) broken = error;
    return error;
  });
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = static_cast<cudaError_t>(broken.load());
  return error;
}
cudaError_t cudaPeekAtLastError() { return last; }
const char* cudaGetErrorString(cudaError_t error) {
  static thread_local char text[60];
  snprintf(text, sizeof(text), "error %d of the emulated device", static_cast<int>(error));
  return error == cudaSuccess ? "no error" : text;
}
const char* cudaGetErrorName(cudaError_t error) { return cudaGetErrorString(error); }

cudaError_t cudaGetDevice(int* index) {
  *index = chosen_device;
  return result(cudaSuccess);
}
cudaError_t cudaSetDevice(int index) {
  if (index < 0 || index >= device_count()) return result(cudaErrorInvalidDevice);
  chosen_device = index;
  return result(cudaSuccess);
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return result(cudaSuccess);
}
cudaError_t cudaDeviceSynchronize() { return result(cudaSuccess); }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
  if (index < 0 || index >= device_count()) return result(cudaErrorInvalidDevice);
  const Device& own = device();
  switch (attribute) {
    case cudaDevAttrComputeCapabilityMajor: *value = own.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = own.minor; break;
    case cudaDevAttrMultiProcessorCount: *value = own.multiprocessors; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = shared_without_asking; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = own.shared_most; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = own.shared_each; break;
    case cudaDevAttrReservedSharedMemoryPerBlock: *value = reserved_shared; break;
    case cudaDevAttrL2CacheSize: *value = own.cache; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *value = own.threads_each; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *value = own.blocks_each; break;
    case cudaDevAttrMaxThreadsPerBlock: *value = most_block_threads; break;
    case cudaDevAttrWarpSize: *value = warp_size; break;
    case cudaDevAttrCooperativeLaunch: *value = 1; break;
    case cudaDevAttrClusterLaunch: *value = own.major >= 9; break;
    default: return result(cudaErrorInvalidValue);
  }
  return result(cudaSuccess);
}

cudaError_t cudaFuncSetAttribute(const void* function, cudaFuncAttribute attribute, int value) {
  const std::lock_guard<std::mutex> lock(kernels_mutex());
  const auto entry = kernels().find(function);
  if (entry == kernels().end()) return result(cudaErrorInvalidDeviceFunction);
  if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) return result(cudaSuccess);
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      value + entry->second.kernel.static_shared > most_shared_memory())
    return result(cudaErrorInvalidValue);
  entry->second.most_dynamic = value;
  return result(cudaSuccess);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void* function) {
  Known known;
  if (!find(function, &known)) return result(cudaErrorInvalidDeviceFunction);
  *attributes = {};
  attributes->sharedSizeBytes = known.kernel.static_shared;
  attributes->maxThreadsPerBlock = known.kernel.most_threads ? known.kernel.most_threads : most_block_threads;
  attributes->numRegs = registers_of(known.kernel);
  attributes->ptxVersion = attributes->binaryVersion = TGLO_EMULATED_ARCH / 10;
  attributes->maxDynamicSharedSizeBytes = known.most_dynamic;
  return result(cudaSuccess);
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(
    int* blocks, const void* function, int threads, size_t shared) {
  Known known;
  if (!find(function, &known)) return result(cudaErrorInvalidDeviceFunction);
  if (threads <= 0) return result(cudaErrorInvalidValue);
  *blocks = resident_blocks(threads, shared + known.kernel.static_shared, registers_of(known.kernel));
  return result(cudaSuccess);
}

cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, const void* function, const cudaLaunchConfig_t* config) {
  int each = 0, size = 1;
  const cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
      &each, function, static_cast<int>(config->blockDim.x), config->dynamicSmemBytes);
  if (error != cudaSuccess) return error;
  for (unsigned k = 0; k < config->numAttrs; ++k)
    if (config->attrs[k].id == cudaLaunchAttributeClusterDimension)
      size = static_cast<int>(config->attrs[k].val.clusterDim.x);
  const int together = device().largest_cluster;  // multiprocessors; what is left over of the GPU holds no cluster
  *clusters = together ? device().multiprocessors / together * (together * each / size) : 0;
  return result(cudaSuccess);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void** arguments) {
  return result(launch(*config, function, arguments));
}
cudaError_t cudaLaunchKernel(
    const void* function, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  return result(launch(config, function, arguments));
}
cudaError_t cudaLaunchCooperativeKernel(
    const void* function, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t stream) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute together = {};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared;
  config.stream = stream;
  config.attrs = &together;
  config.numAttrs = 1;
  return result(launch(config, function, arguments));
}

}  // extern "C"
