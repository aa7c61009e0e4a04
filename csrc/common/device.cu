#include "common/device.h"

#include <cuda_runtime.h>

namespace tglo {

int zero_counters(uint32_t* counters, int64_t count, void* stream) {
  return cudaMemsetAsync(counters, 0, static_cast<size_t>(count) * sizeof(uint32_t), static_cast<cudaStream_t>(stream));
}

int is_capturing(void* stream, bool* capturing) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  const cudaError_t error = cudaStreamIsCapturing(static_cast<cudaStream_t>(stream), &status);
  *capturing = status != cudaStreamCaptureStatusNone;
  return error;
}

const char* error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace tglo
