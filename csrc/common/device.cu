#include "common/device.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <vector>

#include "common/device.cuh"

namespace tglo {
namespace {

constexpr size_t known_streams = 64;  // of a device

// The streams of a device that have counters, by CUDA's number for them: a handle comes back after its stream is gone,
// perhaps while that one's work still runs.
struct Counters {
  uint32_t* memory = nullptr;
  bool refused = false;
  std::vector<unsigned long long> streams;
};

// A thread that captures a graph forbids allocation to all threads, unless they say that they know what they do.
cudaError_t allocate(uint32_t** memory) {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaError_t error = cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) return error;
  error = cudaMalloc(reinterpret_cast<void**>(memory), known_streams * stream_counters * sizeof(uint32_t));
  const cudaError_t restored = cudaThreadExchangeStreamCaptureMode(&mode);
  return error == cudaSuccess ? restored : error;
}

}  // namespace

int counters_of(int32_t device, void* stream_handle, uint32_t** counters) {
  // Never destroyed: at exit CUDA may be gone before static objects are.
  static auto& known = *new std::map<int32_t, Counters>;
  static auto& mutex = *new std::mutex;
  *counters = nullptr;
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return guard.error;
  const cudaStream_t stream = static_cast<cudaStream_t>(stream_handle);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long number = 0;
  cudaError_t error = cudaStreamIsCapturing(stream, &status);
  if (error == cudaSuccess && status != cudaStreamCaptureStatusNone) return cudaSuccess;
  if (error == cudaSuccess) error = cudaStreamGetId(stream, &number);
  if (error != cudaSuccess) return settled(error);

  const std::lock_guard<std::mutex> lock(mutex);
  Counters& own = known[device];
  const auto found = std::find(own.streams.begin(), own.streams.end(), number);
  uint32_t* place = own.memory + (found - own.streams.begin()) * stream_counters;
  if (found == own.streams.end()) {
    if (own.refused || own.streams.size() == known_streams) return cudaSuccess;
    if (!own.memory && settled(allocate(&own.memory)) != cudaSuccess) {
      own.memory = nullptr;
      own.refused = true;
      return cudaSuccess;
    }
    place = own.memory + own.streams.size() * stream_counters;
    error = cudaMemsetAsync(place, 0, stream_counters * sizeof(uint32_t), stream);
    if (error != cudaSuccess) return settled(error);
    own.streams.push_back(number);
  }
  *counters = place;
  return cudaSuccess;
}

int zero_counters(uint32_t* counters, int64_t count, void* stream) {
  return settled(
      cudaMemsetAsync(counters, 0, static_cast<size_t>(count) * sizeof(uint32_t), static_cast<cudaStream_t>(stream)));
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace tglo
