// Registers the CUDA implementation of tglo::diffuse.
#include "bindings/cuda_call.h"
#include "bindings/noise_call.h"
#include "noise/cuda.h"

namespace tglo {
namespace {

Tensor diffuse(
    const Tensor& latents, const Tensor& scale, const Tensor& noise_scale, const Tensor& sample_ids,
    const Tensor& draws, int64_t seed, int64_t purpose) {
  const DiffuseInputs inputs(latents, scale, noise_scale, sample_ids, draws, seed, purpose);
  STD_TORCH_CHECK(latents.is_cuda(), "tglo: latents must be on a CUDA device");
  Tensor out = torch::stable::empty_like(latents);
  if (inputs.rows == 0 || inputs.elements == 0) return out;
  const int32_t device = latents.get_device_index();
  const CudaDiffuse call = {
      inputs.type, latents.const_data_ptr(), out.mutable_data_ptr(), inputs.rows, inputs.elements, inputs.scale,
      inputs.noise_scale, inputs.sample_ids, inputs.draws, inputs.key, device, current_stream(device)};
  check_cuda(launch_diffuse(call), "launching diffuse");
  return out;
}

}  // namespace
}  // namespace tglo

STABLE_TORCH_LIBRARY_IMPL(tglo, CUDA, m) {
  m.impl("diffuse", TORCH_BOX(&tglo::diffuse));
}
