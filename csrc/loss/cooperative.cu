// Loss and gradient in one launch for samples that no cluster can hold, and for GPUs without clusters: all blocks are on
// the GPU together, in groups that go through their samples one after another. A group's blocks sum their slices, meet,
// and read p and y again for the gradient, from the second-level cache if the samples in work fit there. From one to the
// other a group waits for its slowest block and for one thread's arithmetic; meanwhile the multiprocessor works on the
// sample of another group, which began later by one sample's sums.
#include <atomic>
#include <cstdint>

#include "common/device.h"
#include "loss/rows.cuh"
#include "loss/sample.cuh"

namespace tglo {
namespace {

constexpr int threads = 256;
using DeviceMeeting = Meeting<DeviceCounter>;
constexpr int64_t most_groups = (stream_counters - 1) / DeviceMeeting::counters;
using Workings = DrawWorkings<cooperative_draws>;

struct Shared {
  Workings workings;
  PartialSums warps[threads / threads_per_warp];
  double scratch[threads / threads_per_warp];
  float coefficients[cooperative_draws];
  bool last;
};

__device__ inline DeviceMeeting meeting_of(const CudaLoss& loss, int group, int blocks) {
  return {loss.counters + 1 + group * DeviceMeeting::counters, static_cast<uint32_t>(blocks)};
}

// Where a block's sums of one draw of the group's sample i go: [group][buffer][quantity][draw][block].
__device__ inline double* sums_place(const CudaLoss& loss, int group, int64_t i, int64_t draw, int blocks) {
  const int64_t place = group * DeviceMeeting::buffers + i % DeviceMeeting::buffers;
  return loss.workspace + loss.call.batch + (place * 3 * loss.call.draws + draw) * blocks;
}

template <class T, bool with_reference, bool masked>
__global__ void __launch_bounds__(threads, 2)
    loss_and_grad(const __grid_constant__ CudaLoss loss, int blocks, int groups, int64_t slice, bool aligned) {
  __shared__ Shared shared;
  const LossCall& call = loss.call;
  const int group = blockIdx.x / blocks, rank = blockIdx.x % blocks;
  const int64_t first = rank * slice, end = first + slice;
  const int64_t quantity = call.draws * blocks;
  const DeviceMeeting meeting = meeting_of(loss, group, blocks);
  const int lane = threadIdx.x % threads_per_warp, warp = threadIdx.x / threads_per_warp;

  // The second half of the groups waits for the first sums of the first half.
  const int later = (groups + 1) / 2;
  if (group >= later && threadIdx.x == 0) meeting_of(loss, group - later, blocks).wait(0);
  __syncthreads();
  const int64_t samples = (call.batch - group + groups - 1) / groups;
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t sample = group + i * groups;
    for (int64_t draw = 0; draw < call.draws; ++draw) {
      const RowPart<T> part(loss, sample * call.draws + draw, first, end);
      const auto forget = [](int64_t, const Vector8&) {};
      const PartialSums mine = aligned ? thread_sums<true, with_reference, masked>(loss, part, forget)
                                       : thread_sums<false, with_reference, masked>(loss, part, forget);
      const PartialSums sums = block_sums<threads, with_reference, masked>(mine, shared.warps);
      if (threadIdx.x == 0) {
        double* to = sums_place(loss, group, i, draw, blocks) + rank;
        to[0] = sums.policy_error;
        if (with_reference) to[quantity] = sums.error_difference;
        if (masked) to[2 * quantity] = sums.weight;
      }
    }
    if (threadIdx.x == 0) {
      meeting.arrive(i);
      meeting.wait(i);
    }
    __syncthreads();
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
      const auto scale_of = [&] { return shared.coefficients[draw]; };
      aligned ? write_gradient<true, masked>(loss, part, scale_of)
              : write_gradient<false, masked>(loss, part, scale_of);
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

// What a kernel may use on a device, asked once.
struct Capacity {
  std::atomic<bool> known{false};
  std::atomic<int> blocks{0}, cache{0};  // blocks that are resident together, none without cooperative launches; bytes
};

int look_up(const CudaLoss& loss, int* blocks, int* cache) {
  if (loss.device < 0 || loss.device >= known_devices) return cudaErrorInvalidDevice;
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    static Capacity capacities[known_devices];
    Capacity& capacity = capacities[loss.device];
    if (!capacity.known) {
      const DeviceGuard guard(loss.device);
      if (guard.error != cudaSuccess) return guard.error;
      int each = 0, multiprocessors = 0, bytes = 0, together = 0;
      cudaError_t error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(
          &each, loss_and_grad<T, with_reference, masked>, threads, 0);
      if (error == cudaSuccess)
        error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, loss.device);
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(&bytes, cudaDevAttrL2CacheSize, loss.device);
      if (error == cudaSuccess) error = cudaDeviceGetAttribute(&together, cudaDevAttrCooperativeLaunch, loss.device);
      if (error != cudaSuccess) return settled(error);
      capacity.cache = bytes;
      capacity.blocks = together ? each * multiprocessors : 0;
      capacity.known = true;
    }
    *blocks = capacity.blocks;
    *cache = capacity.cache;
    return cudaSuccess;
  });
}

int64_t at_least_one(int64_t value) { return value < 1 ? 1 : value; }

}  // namespace

bool plan_cooperative(const CudaLoss& loss, Plan* plan, int* error) {
  *error = cudaSuccess;
  if (loss.call.draws > cooperative_draws) return false;
  int resident = 0, cache = 0;
  *error = look_up(loss, &resident, &cache);
  if (*error != cudaSuccess || resident == 0) return false;
  // A group has p and y of one sample in work; half of the cache is left to the rest. Of an even number of groups one
  // half works while the other one waits.
  const int64_t size = loss.type == Element::float32 ? 4 : 2;
  const int64_t in_work = at_least_one(2 * loss.call.draws * loss.call.elements * size);
  int64_t groups = 2 * at_least_one(cache / 4 / in_work);
  if (groups > loss.call.batch) groups = loss.call.batch;
  if (groups > resident) groups = resident;
  if (groups > most_groups) groups = most_groups;
  int64_t blocks = at_least_one(loss.call.elements * loss.call.draws / smallest_slice);
  if (blocks > resident / groups) blocks = resident / groups;
  *plan = {loss.call.batch + groups * DeviceMeeting::buffers * 3 * loss.call.draws * blocks,
           1 + groups * static_cast<int64_t>(DeviceMeeting::counters), static_cast<int32_t>(blocks),
           static_cast<int32_t>(groups), Form::cooperative};
  return true;
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
    return settled(cudaLaunchKernelEx(
        &config, loss_and_grad<T, with_reference, masked>, loss, static_cast<int>(plan.blocks),
        static_cast<int>(plan.groups), slice_of(loss.call.elements, plan.blocks), aligned));
  });
}

}  // namespace tglo
