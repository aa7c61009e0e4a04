// The plain interface of the CUDA kernel of the noising: no torch types, no CUDA types.
#pragma once

#include "common/launch.h"
#include "noise/philox.h"

namespace tglo {

struct CudaDiffuse {
  Element type;
  const void* latents;
  void* out;
  int64_t rows, elements;
  const float *scale, *noise_scale;  // one per row, as the next two
  const int64_t *sample_ids, *draws;
  PhiloxKey key;
  int32_t device;
  void* stream;
};

// One launch: out = scale * latents + noise_scale * noise. Returns CUDA's error code.
int launch_diffuse(const CudaDiffuse& diffuse);

}  // namespace tglo
