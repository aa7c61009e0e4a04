// The stream that torch queues work on.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>

// Only CUDA builds of torch have it: weak, so that the library also loads under a CPU build.
extern "C" __attribute__((weak)) AOTITorchError
aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace tglo {

inline void* current_stream(int32_t device) {
  void* stream = nullptr;
  STD_TORCH_CHECK(
      aoti_torch_get_current_cuda_stream &&
          aoti_torch_get_current_cuda_stream(device, &stream) == AOTI_TORCH_SUCCESS,
      "tglo: this torch does not tell its current CUDA stream; it must be a CUDA build of 2.11 or later");
  return stream;
}

}  // namespace tglo
