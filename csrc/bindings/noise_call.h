// The checked arguments of tglo::diffuse (tglo/ops/noise.py), for the CPU and for CUDA. Included by bindings/noise*.cpp only.
#pragma once

#include "bindings/tensors.h"
#include "noise/philox.h"

namespace tglo {

inline PhiloxKey key_of(int64_t seed, int64_t purpose) {
  constexpr int64_t most = 0xffffffff;
  STD_TORCH_CHECK(
      seed >= 0 && seed <= most && purpose >= 0 && purpose <= most,
      "tglo: seed and purpose must be in [0, 2^32), not ", seed, " and ", purpose);
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(purpose)};
}

struct DiffuseInputs {
  Element type;
  int64_t rows, elements;
  const float *scale, *noise_scale;
  const int64_t *sample_ids, *draws;
  PhiloxKey key;

  DiffuseInputs(
      const Tensor& latents, const Tensor& scales, const Tensor& noise_scales, const Tensor& ids,
      const Tensor& draw_numbers, int64_t seed, int64_t purpose)
      : key(key_of(seed, purpose)) {
    const ScalarType dtype = latents.scalar_type();
    STD_TORCH_CHECK(
        dtype == ScalarType::BFloat16 || dtype == ScalarType::Half || dtype == ScalarType::Float,
        "tglo: latents must be bfloat16, float16 or float32");
    STD_TORCH_CHECK(
        latents.dim() >= 1 && latents.is_contiguous(), "tglo: latents must be contiguous, of shape (B, ...)");
    type = element_of(latents);
    rows = latents.size(0);
    elements = rows ? latents.numel() / rows : 0;
    STD_TORCH_CHECK(elements <= most_elements, "tglo: a sample has at most 2^34 elements, not ", elements);
    scale = static_cast<const float*>(row_vector(latents, scales, ScalarType::Float, "scale must be float32"));
    noise_scale = static_cast<const float*>(
        row_vector(latents, noise_scales, ScalarType::Float, "noise_scale must be float32"));
    sample_ids =
        static_cast<const int64_t*>(row_vector(latents, ids, ScalarType::Long, "sample_ids must be int64"));
    draws =
        static_cast<const int64_t*>(row_vector(latents, draw_numbers, ScalarType::Long, "draws must be int64"));
  }

 private:
  const void* row_vector(const Tensor& latents, const Tensor& vector, ScalarType dtype, const char* rule) const {
    STD_TORCH_CHECK(
        vector.scalar_type() == dtype && vector.dim() == 1 && vector.size(0) == rows &&
            vector.is_contiguous() && same_device(vector, latents),
        "tglo: ", rule, ", contiguous, of shape (", rows, ",) and on the latents' device");
    return vector.const_data_ptr();
  }
};

}  // namespace tglo
