// The loss in one launch and its gradient in another, for every GPU from sm_80 on.
#include <cstdint>

#include "loss/finish.cuh"

namespace tglo {
namespace {

constexpr int threads = 256;

// Elements of a part, the work of one block. It depends on the row alone, so that a cached error is the same whatever
// batch it was computed in: SDXL's rows are cut into 32 parts, FLUX's into 64, Wan's into 256.
int64_t part_elements(int64_t elements) {
  if (elements <= 131072) return 2048;
  return elements <= 524288 ? 4096 : 8192;
}

int64_t parts_of(int64_t elements) {
  const int64_t part = part_elements(elements);
  return (elements + part - 1) / part;
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
    forward(const __grid_constant__ CudaLoss loss, int64_t part_length, int64_t parts, bool aligned) {
  __shared__ double scratch[threads / threads_per_warp];
  __shared__ bool last;
  const int64_t block = blockIdx.x, row = block / parts, first = block % parts * part_length;
  const RowPart<T> part(loss, row, first, first + part_length);
  const auto forget = [](int64_t, const Vector8&) {};
  const PartialSums mine = aligned ? thread_sums<true, with_reference, masked>(loss, part, forget)
                                   : thread_sums<false, with_reference, masked>(loss, part, forget);
  const PartialSums sums = block_sums<threads, with_reference, masked>(mine, scratch);
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

template <class T, bool masked>
__global__ void __launch_bounds__(threads) backward(
    const __grid_constant__ CudaLoss loss, int64_t part_length, int64_t parts, bool aligned, Numbers outer,
    Numbers coefficient) {
  const int64_t row = blockIdx.x / parts, first = blockIdx.x % parts * part_length;
  const RowPart<T> part(loss, row, first, first + part_length);
  const float scale = static_cast<float>(outer[row / loss.call.draws] * coefficient[row]);
  aligned ? write_gradient<true, masked>(loss, part, scale) : write_gradient<false, masked>(loss, part, scale);
}

// Calls launch.template operator()<T, with_reference, masked>(grid, part length, parts, aligned) on the call's device.
template <class Launch>
int over_parts(const CudaLoss& loss, const Launch& launch) {
  const DeviceGuard guard(loss.device);
  if (guard.error != cudaSuccess) return guard.error;
  const int64_t length = part_elements(loss.call.elements), parts = parts_of(loss.call.elements);
  if (loss.rows * parts > INT32_MAX) return cudaErrorInvalidConfiguration;
  const unsigned grid = static_cast<unsigned>(loss.rows * parts);
  const bool aligned = rows_are_aligned(loss);
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    launch.template operator()<T, with_reference, masked>(grid, length, parts, aligned);
    return cudaGetLastError();
  });
}

}  // namespace

Plan plan_loss(int64_t rows, int64_t elements) {
  return {rows * (3 * parts_of(elements) + 2), 1, 0, 0, false};
}

int launch_loss(const CudaLoss& loss) {
  const cudaStream_t stream = static_cast<cudaStream_t>(loss.stream);
  return over_parts(
      loss, [&]<class T, bool with_reference, bool masked>(unsigned grid, int64_t length, int64_t parts, bool aligned) {
        forward<T, with_reference, masked><<<grid, threads, 0, stream>>>(loss, length, parts, aligned);
      });
}

int launch_backward(const CudaLoss& loss, const Numbers& outer, const Numbers& coefficient) {
  const cudaStream_t stream = static_cast<cudaStream_t>(loss.stream);
  return over_parts(
      loss, [&]<class T, bool, bool masked>(unsigned grid, int64_t length, int64_t parts, bool aligned) {
        backward<T, masked><<<grid, threads, 0, stream>>>(loss, length, parts, aligned, outer, coefficient);
      });
}

Plan plan_loss_and_grad(const CudaLoss& loss, int* error) {
  Plan plan = {};
  if (plan_cluster(loss, &plan, error)) return plan;
  return *error ? plan : plan_cooperative(loss, error);
}

int launch_loss_and_grad(const CudaLoss& loss, const Plan& plan) {
  return plan.cluster ? launch_cluster(loss, plan) : launch_cooperative(loss, plan);
}

int probe_device(int32_t device) {
  const DeviceGuard guard(device);
  if (guard.error != cudaSuccess) return guard.error;
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, backward<float, false>);
  cudaGetLastError();  // a probe leaves no error behind
  return error;
}

}  // namespace tglo
