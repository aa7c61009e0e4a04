// Loss and gradient in one launch for samples that no cluster can hold, and for GPUs without clusters: all blocks are on
// the GPU together, in groups that go through their samples one after another. A group's blocks first sum their slices,
// meet, and read p and y again for the gradient, from the second-level cache if the samples in work fit there. The sums of
// the next sample come before the meeting of this one, so nobody waits for memory.
#include <atomic>
#include <cstdint>

#include "loss/rows.cuh"
#include "loss/sample.cuh"

namespace tglo {
namespace {

constexpr int threads = 256;
constexpr int64_t most_draws = 64;
using DeviceMeeting = Meeting<DeviceCounter>;
using Workings = DrawWorkings<most_draws>;

struct Shared {
  Workings workings;
  double scratch[threads / threads_per_warp];
  float coefficients[most_draws];
  bool last;
};

// Where a block's sums of one draw of the group's sample i go: [group][buffer][quantity][draw][block].
__device__ inline double* sums_place(const CudaLoss& loss, int group, int64_t i, int64_t draw, int blocks) {
  const int64_t place = group * DeviceMeeting::buffers + i % DeviceMeeting::buffers;
  return loss.workspace + loss.call.batch + (place * 3 * loss.call.draws + draw) * blocks;
}

template <class T, bool with_reference, bool masked>
__global__ void __launch_bounds__(threads, 2)
    loss_and_grad(const __grid_constant__ CudaLoss loss, int blocks, int groups, bool aligned) {
  __shared__ Shared shared;
  const LossCall& call = loss.call;
  const int group = blockIdx.x / blocks, rank = blockIdx.x % blocks;
  const int64_t first = rank * slice_of(call.elements, blocks), end = first + slice_of(call.elements, blocks);
  const int64_t quantity = call.draws * blocks;
  const DeviceMeeting meeting = {loss.counters + 1 + group * DeviceMeeting::counters, static_cast<uint32_t>(blocks)};
  const int lane = threadIdx.x % threads_per_warp, warp = threadIdx.x / threads_per_warp;

  const auto sum = [&](int64_t i) {
    const int64_t sample = group + i * groups;
    for (int64_t draw = 0; draw < call.draws; ++draw) {
      const RowPart<T> part(loss, sample * call.draws + draw, first, end);
      const auto forget = [](int64_t, const Vector8&) {};
      const PartialSums mine = aligned ? thread_sums<true, with_reference, masked>(loss, part, forget)
                                       : thread_sums<false, with_reference, masked>(loss, part, forget);
      const PartialSums sums = block_sums<threads, with_reference, masked>(mine, shared.scratch);
      if (threadIdx.x == 0) {
        double* to = sums_place(loss, group, i, draw, blocks) + rank;
        to[0] = sums.policy_error;
        if (with_reference) to[quantity] = sums.error_difference;
        if (masked) to[2 * quantity] = sums.weight;
      }
    }
    if (threadIdx.x == 0) meeting.arrive(i);
  };

  const int64_t samples = (call.batch - group + groups - 1) / groups;
  sum(0);
  for (int64_t i = 0; i < samples; ++i) {
    if (i + 1 < samples) sum(i + 1);
    if (threadIdx.x == 0)
      while (!meeting.complete(i)) __nanosleep(20);
    __syncthreads();
    const int64_t sample = group + i * groups;
    for (int64_t draw = warp; draw < call.draws; draw += threads / threads_per_warp) {
      const double* from = sums_place(loss, group, i, draw, blocks);
      const PartialSums total = gather_sums<with_reference, masked>(from, blocks, quantity);
      if (lane == 0) {
        shared.workings.ells[draw] = finish_row(call, sample * call.draws + draw, total, rank == 0);
        shared.workings.weights[draw] = total.weight;
      }
    }
    __syncthreads();
    if (threadIdx.x == 0)
      sample_coefficients(
          call, sample, shared.workings, shared.coefficients, rank == 0 ? loss.workspace : nullptr);
    __syncthreads();
    for (int64_t draw = 0; draw < call.draws; ++draw) {
      const RowPart<T> part(loss, sample * call.draws + draw, first, end);
      const float scale = shared.coefficients[draw];
      aligned ? write_gradient<true, masked>(loss, part, scale) : write_gradient<false, masked>(loss, part, scale);
    }
    __syncthreads();  // the coefficients have been read
  }

  if (threadIdx.x == 0) shared.last = arrives_last<DeviceCounter>(loss.counters, gridDim.x);
  __syncthreads();
  if (!shared.last) return;
  if (call.reduction != Reduction::none) reduce_losses<threads>(call, loss.workspace, shared.scratch);
  for (int k = threadIdx.x; k < 1 + groups * static_cast<int>(DeviceMeeting::counters); k += threads)
    loss.counters[k] = 0;
}

// Blocks that the device holds at once, and the bytes of its second-level cache.
struct Capacity {
  std::atomic<int> blocks{0}, cache{0};
};

int look_up(const CudaLoss& loss, int* blocks, int* cache) {
  if (loss.device < 0 || loss.device >= known_devices) return cudaErrorInvalidDevice;
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    static Capacity capacities[known_devices];
    Capacity& known = capacities[loss.device];
    if (known.blocks == 0) {
      int each = 0, multiprocessors = 0, bytes = 0;
      cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
          &each, loss_and_grad<T, with_reference, masked>, threads, 0);
      if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, loss.device);
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, loss.device);
      if (error != cudaSuccess) return error;
      known.cache = bytes;
      known.blocks = each * multiprocessors;
    }
    *blocks = known.blocks;
    *cache = known.cache;
    return cudaSuccess;
  });
}

int64_t at_least_one(int64_t value) { return value < 1 ? 1 : value; }

}  // namespace

Plan plan_cooperative(const CudaLoss& loss, int* error) {
  const DeviceGuard guard(loss.device);
  int resident = 0, cache = 0;
  *error = guard.error == cudaSuccess ? look_up(loss, &resident, &cache) : guard.error;
  if (*error == cudaSuccess && (loss.call.draws > most_draws || resident == 0)) *error = cudaErrorInvalidValue;
  if (*error != cudaSuccess) return {};
  // A group has p and y of two samples in work; half of the cache is left to the rest.
  const int64_t size = loss.type == Element::float32 ? 4 : 2;
  const int64_t in_work = 2 * 2 * loss.call.draws * loss.call.elements * size;
  int64_t groups = at_least_one(cache / 2 / in_work);
  if (groups > loss.call.batch) groups = loss.call.batch;
  if (groups > resident) groups = resident;
  int64_t blocks = at_least_one(loss.call.elements * loss.call.draws / smallest_slice);
  if (blocks > resident / groups) blocks = resident / groups;
  return {loss.call.batch + groups * DeviceMeeting::buffers * 3 * loss.call.draws * blocks,
          1 + groups * static_cast<int64_t>(DeviceMeeting::counters), static_cast<int32_t>(blocks),
          static_cast<int32_t>(groups), false};
}

int launch_cooperative(const CudaLoss& loss, const Plan& plan) {
  const DeviceGuard guard(loss.device);
  if (guard.error != cudaSuccess) return guard.error;
  const bool aligned = rows_are_aligned(loss);
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(plan.blocks * plan.groups));
    config.blockDim = dim3(threads);
    config.stream = static_cast<cudaStream_t>(loss.stream);
    cudaLaunchAttribute together = {};
    together.id = cudaLaunchAttributeCooperative;
    together.val.cooperative = 1;
    config.attrs = &together;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(
        &config, loss_and_grad<T, with_reference, masked>, loss, static_cast<int>(plan.blocks),
        static_cast<int>(plan.groups), aligned);
  });
}

}  // namespace tglo
