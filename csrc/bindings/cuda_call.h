// Shared by the bindings of the CUDA kernels: errors, torch's stream, counters.
#pragma once

#include "bindings/tensors.h"

// Only CUDA builds of torch have it: weak, so that the library also loads under a CPU build.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace tglo {

// The stream that torch queues work on.
inline void* current_stream(int32_t device) {
  void* stream = nullptr;
  STD_TORCH_CHECK(
      aoti_torch_get_current_cuda_stream &&
          aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
      "tglo: this torch does not tell its current CUDA stream; it must be a CUDA build of 2.11 or later");
  return stream;
}

// Raises for an error code of CUDA's, saying what was being done. Defined in loss_cuda.cpp, as the next.
void check_cuda(int error, const char* what);

// Zeros that a launch leaves as zeros: the same ones for all launches of a stream, since those take turns. A CUDA graph
// gets its own, zeroed in the graph: it may be replayed on any stream.
Tensor arrival_counters(const Tensor& like, int64_t count, void* stream);

}  // namespace tglo
