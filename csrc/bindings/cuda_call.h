// Shared by the bindings of the CUDA kernels: errors, torch's stream.
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

// Raises for an error code of CUDA's, saying what was being done. Defined in loss_cuda.cpp.
void check_cuda(int error, const char* what);

}  // namespace tglo
