// Loss and gradient in one launch, each input read once: a thread-block cluster (sm_90 and up) keeps m (p - y) of its
// sample in the shared memory of its blocks while the sample's log-ratio is found.
#include <atomic>
#include <cstdint>

#include "loss/rows.cuh"
#include "loss/sample.cuh"

#include <cooperative_groups.h>

namespace tglo {
namespace {

constexpr int threads = 512;
constexpr int largest_cluster = 8;  // the largest that every device takes

// The numbers that a block reads of its neighbours, and its own workings.
struct Shared {
  PartialSums sums[cluster_draws];
  SampleWorkings workings;
  double scratch[threads / threads_per_warp];
  float coefficients[cluster_draws];
  bool last;
};

template <class T, bool with_reference, bool masked>
__global__ void __launch_bounds__(threads, 1)
    loss_and_grad(const __grid_constant__ CudaLoss loss, int blocks, bool aligned) {
#if __CUDA_ARCH__ >= 900
  // Vector v of draw k: its first four numbers in held[k][0][v], the others in held[k][1][v], so that neighbouring
  // threads touch neighbouring 16 bytes.
  extern __shared__ float4 held[];
  __shared__ Shared shared;
  const LossCall& call = loss.call;
  const auto cluster = cooperative_groups::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int64_t sample = blockIdx.x / blocks;
  const int64_t slice = slice_of(call.elements, blocks), vectors = slice / vector_length;
  const int64_t first = rank * slice;
  const int draws = static_cast<int>(call.draws);

  for (int draw = 0; draw < draws; ++draw) {
    const RowPart<T> part(loss, sample * draws + draw, first, first + slice);
    float4* low = held + draw * 2 * vectors;
    float4* high = low + vectors;
    const auto keep = [&](int64_t v, const Vector8& d) {
      low[v] = make_float4(d.at[0], d.at[1], d.at[2], d.at[3]);
      high[v] = make_float4(d.at[4], d.at[5], d.at[6], d.at[7]);
    };
    const PartialSums mine = aligned ? thread_sums<true, with_reference, masked>(loss, part, keep)
                                     : thread_sums<false, with_reference, masked>(loss, part, keep);
    const PartialSums sums = block_sums<threads, with_reference, masked>(mine, shared.scratch);
    if (threadIdx.x == 0) shared.sums[draw] = sums;
  }
  cluster.sync();
  if (threadIdx.x < draws) {
    PartialSums total = {0.0, 0.0, 0.0};
    for (int other = 0; other < blocks; ++other) {
      const PartialSums& next = *cluster.map_shared_rank(&shared.sums[threadIdx.x], other);
      total.policy_error += next.policy_error;
      total.error_difference += next.error_difference;
      total.weight += next.weight;
    }
    shared.workings.ells[threadIdx.x] = finish_row(call, sample * draws + threadIdx.x, total, rank == 0);
    shared.workings.weights[threadIdx.x] = total.weight;
  }
  __syncthreads();
  auto leaving = cluster.barrier_arrive();  // nobody's sums are read any more
  if (threadIdx.x == 0) {
    double* losses = rank == 0 ? loss.workspace : nullptr;
    sample_coefficients(call, sample, shared.workings, shared.coefficients, losses);
    shared.last = rank == 0 && arrives_last<DeviceCounter>(loss.counters, static_cast<uint32_t>(call.batch));
  }
  __syncthreads();

  for (int draw = 0; draw < draws; ++draw) {
    const float4* low = held + draw * 2 * vectors;
    const float4* high = low + vectors;
    const float scale = shared.coefficients[draw];
    T* out = static_cast<T*>(loss.gradient) + (sample * draws + draw) * call.elements;
    const int64_t end = first + slice < call.elements ? first + slice : call.elements;
    for (int64_t v = threadIdx.x; v < vectors; v += threads) {
      const int64_t i = first + v * vector_length;
      if (i >= end) break;
      const float4 a = low[v], b = high[v];
      const Vector8 g = {{scale * a.x, scale * a.y, scale * a.z, scale * a.w,
                          scale * b.x, scale * b.y, scale * b.z, scale * b.w}};
      aligned ? store<true>(out, i, end, g) : store<false>(out, i, end, g);
    }
  }
  if (shared.last) {
    if (call.reduction != Reduction::none) reduce_losses<threads>(call, loss.workspace, shared.scratch);
    if (threadIdx.x == 0) *loss.counters = 0;
  }
  cluster.barrier_wait(std::move(leaving));
#endif
}

struct Device {
  std::atomic<int> capability{-1}, shared_memory{0}, multiprocessors{0};
};
Device devices[known_devices];

int look_up(int index, Device** found) {
  if (index < 0 || index >= known_devices) return cudaErrorInvalidDevice;
  Device& device = devices[index];
  *found = &device;
  if (device.capability >= 0) return cudaSuccess;
  int major = 0, memory = 0, multiprocessors = 0;
  cudaError_t error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&memory, cudaDevAttrMaxSharedMemoryPerBlockOptin, index);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, index);
  if (error != cudaSuccess) return error;
  device.shared_memory = memory - static_cast<int>(sizeof(Shared)) - 1024;  // the system keeps 1 KiB a block
  device.multiprocessors = multiprocessors;
  device.capability = major;
  return cudaSuccess;
}

int64_t held_bytes(const CudaLoss& loss, int blocks) {
  return slice_of(loss.call.elements, blocks) * loss.call.draws * static_cast<int64_t>(sizeof(float));
}

}  // namespace

bool plan_cluster(const CudaLoss& loss, Plan* plan, int* error) {
  Device* device = nullptr;
  *error = look_up(loss.device, &device);
  if (*error != cudaSuccess || device->capability < 9 || loss.call.draws > cluster_draws) return false;
  int blocks = 1;
  while (blocks < largest_cluster && held_bytes(loss, blocks) > device->shared_memory) blocks *= 2;
  if (held_bytes(loss, blocks) > device->shared_memory) return false;
  // Few samples: more blocks for each of them, while there are multiprocessors without work.
  while (blocks < largest_cluster && loss.call.batch * blocks < device->multiprocessors &&
         slice_of(loss.call.elements, blocks) * loss.call.draws >= 2 * smallest_slice)
    blocks *= 2;
  if (loss.call.batch > INT32_MAX / blocks) return false;
  *plan = {loss.call.batch, 1, blocks, static_cast<int32_t>(loss.call.batch), true};
  return true;
}

int launch_cluster(const CudaLoss& loss, const Plan& plan) {
  const DeviceGuard guard(loss.device);
  if (guard.error != cudaSuccess) return guard.error;
  const bool aligned = rows_are_aligned(loss);
  const size_t bytes = static_cast<size_t>(held_bytes(loss, plan.blocks));
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    const auto kernel = loss_and_grad<T, with_reference, masked>;
    // More than 48 KiB of shared memory has to be asked for, once on each device.
    static std::atomic<bool> prepared[known_devices];
    if (!prepared[loss.device]) {
      const cudaError_t error = cudaFuncSetAttribute(
          kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, devices[loss.device].shared_memory);
      if (error != cudaSuccess) return error;
      prepared[loss.device] = true;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(loss.call.batch * plan.blocks));
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = bytes;
    config.stream = static_cast<cudaStream_t>(loss.stream);
    cudaLaunchAttribute size = {};
    size.id = cudaLaunchAttributeClusterDimension;
    size.val.clusterDim.x = static_cast<unsigned>(plan.blocks);
    size.val.clusterDim.y = size.val.clusterDim.z = 1;
    config.attrs = &size;
    config.numAttrs = 1;
    return cudaLaunchKernelEx(&config, kernel, loss, static_cast<int>(plan.blocks), aligned);
  });
}

}  // namespace tglo
