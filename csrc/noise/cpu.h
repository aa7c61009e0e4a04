// The plain interface of the CPU kernels of the noising: no torch types.
#pragma once

#include "common/launch.h"

namespace tglo {

// out = scale * latents + noise_scale * noise over blocks of four elements; see philox.h for the noise.
struct NoiseRow {
  float scale, noise_scale;
  uint64_t sample_id;
  uint32_t draw, seed, purpose;
};

struct CpuNoiseKernels {
  // Elements [first, first + count) of a row; `first` is a multiple of 4, the pointers are to element `first`.
  void (*diffuse)(
      Element type, const void* latents, void* out, int64_t first, int64_t count, const NoiseRow& row);
};

TGLO_FOR_EACH_INSTRUCTION_SET(extern const CpuNoiseKernels cpu_noise_kernels;)

}  // namespace tglo
