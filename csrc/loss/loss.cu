// The loss in one launch and its gradient in another, for every GPU from sm_80 on.
#include <cstdint>

#include "loss/finish.cuh"

namespace tglo {
namespace {

constexpr int threads = 256;

// Elements of a part, the work of one block. It depends on the row alone, so that a cached error is the same whatever
// batch it was computed in. SDXL's rows are cut into 16 parts: 16 samples are one wave of blocks on an H100, with two
// vectors a thread in flight. FLUX's are cut into 32 and Wan's into 128, with four.
int64_t part_elements(int64_t elements) {
  if (elements <= 131072) return 4096;
  return elements <= 1048576 ? 8192 : 16384;
}

// At least one: a row without elements has its statistics too.
int64_t parts_of(int64_t elements, int64_t part) {
  return elements > part ? (elements + part - 1) / part : 1;
}

// The last block's work: partial sums of every row -> statistics, loss, coefficients.
template <bool with_reference, bool masked>
__device__ void finish(const CudaLoss& loss, int64_t parts, double* scratch) {
  const int64_t blocks = loss.rows * parts;
  const double* partials = loss.workspace;
  finish_rows<threads>(loss.call, loss.rows, loss.workspace + 3 * blocks, scratch, [&](int64_t row) {
    return gather_sums<with_reference, masked>(partials + row * parts, parts, blocks);
  });
}

// Two blocks a multiprocessor let a thread have 128 registers: the loads in flight, and a finish without spills.
template <class T, bool with_reference, bool masked>
__global__ void __launch_bounds__(threads, 2)
    forward(const __grid_constant__ CudaLoss loss, int64_t part_length, unsigned parts, bool aligned) {
  __shared__ PartialSums warps[threads / threads_per_warp];
  __shared__ double scratch[threads / threads_per_warp];
  __shared__ bool last;
  const unsigned block = blockIdx.x, row = block / parts;
  const int64_t first = block % parts * part_length;
  const RowPart<T> part(loss, row, first, first + part_length);
  const auto forget = [](int64_t, const Vector8&) {};
  const PartialSums mine = aligned ? thread_sums<true, with_reference, masked>(loss, part, forget)
                                   : thread_sums<false, with_reference, masked>(loss, part, forget);
  const PartialSums sums = block_sums<threads, with_reference, masked>(mine, warps);
  if (threadIdx.x == 0) {
    double* to = loss.workspace + block;
    to[0] = sums.policy_error;
    if (with_reference) to[gridDim.x] = sums.error_difference;
    if (masked) to[2 * static_cast<int64_t>(gridDim.x)] = sums.weight;
    last = arrives_last<DeviceCounter>(loss.counters, gridDim.x);
  }
  __syncthreads();
  if (!last) return;
  finish<with_reference, masked>(loss, parts, scratch);
  if (threadIdx.x == 0) *loss.counters = 0;
}

// The row's scale is two numbers from memory, and a division away: p and y are asked for first.
template <class T, bool masked>
__global__ void __launch_bounds__(threads) backward(
    const __grid_constant__ CudaLoss loss, int64_t part_length, unsigned parts, bool aligned, Numbers outer,
    Numbers coefficient, double ready) {
  if (ready == ready && outer[0] == ready) return;  // NaN: not asked
  const unsigned row = blockIdx.x / parts;
  const int64_t first = blockIdx.x % parts * part_length;
  const RowPart<T> part(loss, row, first, first + part_length);
  const auto scale_of = [&] {
    const double from_loss =
        outer.data ? outer[row / static_cast<unsigned>(loss.call.draws)] : loss.call.loss_scale_value;
    return static_cast<float>(from_loss * coefficient[row]);
  };
  aligned ? write_gradient<true, masked>(loss, part, scale_of) : write_gradient<false, masked>(loss, part, scale_of);
}

// Of the backward's parts, which nothing depends on: few vectors a thread, so that nobody comes round a second time,
// and fewer still where the blocks would not fill the GPU.
int64_t backward_part(const CudaLoss& loss) {
  constexpr int64_t vector_each = int64_t{threads} * vector_length, enough_blocks = 512;
  int64_t part = 4 * vector_each;
  while (part > vector_each && loss.rows * loss.call.elements < enough_blocks * part) part /= 2;
  return part;
}

// Calls launch.template operator()<T, with_reference, masked>(grid, parts, aligned) on the call's device.
template <class Launch>
int over_parts(const CudaLoss& loss, int64_t part, const Launch& launch) {
  const DeviceGuard guard(loss.device);
  if (guard.error != cudaSuccess) return guard.error;
  const int64_t parts = parts_of(loss.call.elements, part);
  if (loss.rows * parts > INT32_MAX) return cudaErrorInvalidConfiguration;
  const dim3 grid(static_cast<unsigned>(loss.rows * parts));
  const bool aligned = rows_are_aligned(loss);
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    return launch.template operator()<T, with_reference, masked>(grid, static_cast<unsigned>(parts), aligned);
  });
}

}  // namespace

Plan plan_loss(int64_t rows, int64_t elements) {
  const int64_t parts = parts_of(elements, part_elements(elements));
  return {rows * (3 * parts + 2), 1, 0, 0, Form::two_launches};
}

int launch_loss(const CudaLoss& loss) {
  const int64_t part = part_elements(loss.call.elements);
  return over_parts(
      loss, part, [&]<class T, bool with_reference, bool masked>(dim3 grid, unsigned parts, bool aligned) {
        return launch(forward<T, with_reference, masked>, grid, threads, loss.stream, loss, part, parts, aligned);
      });
}

int launch_backward(const CudaLoss& loss, const Numbers& outer, const Numbers& coefficient, double ready) {
  const int64_t part = backward_part(loss);
  return over_parts(loss, part, [&]<class T, bool, bool masked>(dim3 grid, unsigned parts, bool aligned) {
    return launch(backward<T, masked>, grid, threads, loss.stream, loss, part, parts, aligned, outer, coefficient, ready);
  });
}

int probe_device(int32_t device) {
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return guard.error;
  cudaFuncAttributes attributes;
  return settled(cudaFuncGetAttributes(&attributes, backward<float, false>));
}

}  // namespace tglo
