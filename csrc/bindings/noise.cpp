// Registers the CPU implementation of tglo::diffuse, and the header's Philox for its test.
#include "bindings/cpu_choice.h"
#include "bindings/noise_call.h"
#include "noise/cpu.h"

namespace tglo {
namespace {

Tensor diffuse(
    const Tensor& latents, const Tensor& scale, const Tensor& noise_scale, const Tensor& sample_ids,
    const Tensor& draws, int64_t seed, int64_t purpose) {
  const DiffuseInputs inputs(latents, scale, noise_scale, sample_ids, draws, seed, purpose);
  Tensor out = torch::stable::empty_like(latents);
  const char* from = bytes(latents);
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const CpuNoiseKernels& run = TGLO_CHOSEN(cpu_noise_kernels);
  for_each_part(inputs.rows, inputs.elements, part_elements, [&](int64_t row, int64_t, int64_t first, int64_t count) {
    const int64_t offset = (row * inputs.elements + first) * size_of(inputs.type);
    const NoiseRow noise = {
        inputs.scale[row], inputs.noise_scale[row], static_cast<uint64_t>(inputs.sample_ids[row]),
        static_cast<uint32_t>(inputs.draws[row]), inputs.key.seed, inputs.key.purpose};
    run.diffuse(inputs.type, from + offset, to + offset, first, count, noise);
  });
  return out;
}

Tensor philox(const Tensor& counter, int64_t key0, int64_t key1) {
  STD_TORCH_CHECK(
      counter.scalar_type() == ScalarType::Long && counter.dim() == 2 && counter.size(1) == 4 &&
          counter.is_contiguous(),
      "tglo: counter must be contiguous int64 of shape (n, 4)");
  const PhiloxKey key = key_of(key0, key1);
  Tensor words = torch::stable::empty_like(counter);
  const int64_t* from = static_cast<const int64_t*>(counter.const_data_ptr());
  int64_t* to = static_cast<int64_t*>(words.mutable_data_ptr());
  for (int64_t i = 0; i < counter.size(0); ++i) {
    FourWords<Scalar> block;
    for (int64_t k = 0; k < 4; ++k) block.at[k] = static_cast<uint32_t>(from[4 * i + k]);
    block = philox4x32<Scalar>(block, key);
    for (int64_t k = 0; k < 4; ++k) to[4 * i + k] = block.at[k];
  }
  return words;
}

}  // namespace
}  // namespace tglo

STABLE_TORCH_LIBRARY_IMPL(tglo, CPU, m) {
  m.impl("diffuse", TORCH_BOX(&tglo::diffuse));
  m.impl("_philox", TORCH_BOX(&tglo::philox));
}
