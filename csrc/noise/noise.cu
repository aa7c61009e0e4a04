// The noising in one launch, for every GPU from sm_80 on. Compiled with -fmad=false: see philox.h.
#include "common/device.cuh"
#include "noise/cuda.h"

namespace tglo {
namespace {

constexpr int threads = 256;
constexpr int64_t most_grid_rows = 65535;  // of a grid's second dimension; further rows are taken in strides
constexpr int vector_blocks = vector_length / block_elements;

// A thread takes one vector of a row: eight elements, which are two blocks of the counter.
template <class T, bool aligned>
__global__ void __launch_bounds__(threads) diffuse_rows(CudaDiffuse call) {
  const int64_t vector = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  const int64_t first = vector * vector_length;
  if (first >= call.elements) return;
  for (int64_t row = blockIdx.y; row < call.rows; row += gridDim.y) {
    const T* latents = static_cast<const T*>(call.latents) + row * call.elements;
    const float scale = __ldg(call.scale + row), noise_scale = __ldg(call.noise_scale + row);
    const uint64_t sample_id = static_cast<uint64_t>(__ldg(call.sample_ids + row));
    const uint32_t draw = static_cast<uint32_t>(__ldg(call.draws + row));
    Vector8 value = load<aligned, true>(latents, first, call.elements);
#pragma unroll
    for (int block = 0; block < vector_blocks; ++block) {
      const FourWords<Scalar> words = philox4x32<Scalar>(
          {{static_cast<uint32_t>(vector * vector_blocks + block), draw, static_cast<uint32_t>(sample_id),
            static_cast<uint32_t>(sample_id >> 32)}},
          call.key);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const Pair<Scalar> noise = normal_pair<Scalar>(words.at[2 * pair], words.at[2 * pair + 1]);
        float* at = value.at + block * block_elements + 2 * pair;
        at[0] = scale * at[0] + noise_scale * noise.first;
        at[1] = scale * at[1] + noise_scale * noise.second;
      }
    }
    store<aligned>(static_cast<T*>(call.out) + row * call.elements, first, call.elements, value);
  }
}

template <class T>
int launch_rows(const CudaDiffuse& call) {
  constexpr int64_t block_length = int64_t{threads} * vector_length;
  const dim3 grid(
      static_cast<unsigned>((call.elements + block_length - 1) / block_length),
      static_cast<unsigned>(call.rows < most_grid_rows ? call.rows : most_grid_rows));
  const bool aligned =
      call.elements % vector_length == 0 && is_aligned(call.latents) && is_aligned(call.out);
  return launch(aligned ? diffuse_rows<T, true> : diffuse_rows<T, false>, grid, threads, call.stream, call);
}

}  // namespace

int launch_diffuse(const CudaDiffuse& diffuse) {
  const DeviceGuard guard(diffuse.device);
  if (guard.error != cudaSuccess) return guard.error;
  return with_type(diffuse.type, [&]<class T>() { return launch_rows<T>(diffuse); });
}

}  // namespace tglo
