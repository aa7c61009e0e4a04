// Loss and gradient in one launch, each input read once: a thread-block cluster (sm_90 and up) keeps m (p - y) of its
// sample in the shared memory of its blocks while the sample's log-ratio is found.
#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>

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
  PartialSums warps[threads / threads_per_warp];
  double scratch[threads / threads_per_warp];
  float coefficients[cluster_draws];
  bool last;
};

template <class T, bool with_reference, bool masked>
__global__ void __launch_bounds__(threads, 1)
    loss_and_grad(const __grid_constant__ CudaLoss loss, int blocks, int64_t slice, bool aligned) {
#if __CUDA_ARCH__ >= 900
  // Vector v of draw k: its first four numbers in held[k][0][v], the others in held[k][1][v], so that neighbouring
  // threads touch neighbouring 16 bytes.
  extern __shared__ float4 held[];
  __shared__ Shared shared;
  const LossCall& call = loss.call;
  const auto cluster = cooperative_groups::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  const int64_t sample = blockIdx.x / blocks;
  const int64_t vectors = slice / vector_length;
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
    const PartialSums sums = block_sums<threads, with_reference, masked>(mine, shared.warps);
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

// A launch in clusters of `blocks`; `size` is kept by the caller until then.
cudaLaunchConfig_t configuration(int64_t grid, int blocks, int64_t bytes, void* stream, cudaLaunchAttribute* size) {
  *size = {};
  size->id = cudaLaunchAttributeClusterDimension;
  size->val.clusterDim.x = static_cast<unsigned>(blocks);
  size->val.clusterDim.y = size->val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(grid));
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = size;
  config.numAttrs = 1;
  return config;
}

// What a kernel may use on a device, asked once.
struct Limits {
  int64_t shared_memory = 0;                    // dynamic, of a block
  std::array<int, largest_cluster + 1> most{};  // clusters of so many blocks that the device holds at once
};

// Where clusters cannot be, every number stays 0. Code that was made from PTX for less than sm_90 has an empty body: it
// may run on sm_90, where the driver compiles it, and would do nothing.
template <class Kernel>
cudaError_t ask(Kernel kernel, int device, Limits* limits) {
  cudaFuncAttributes attributes = {};
  int major = 0, most = 0, reserved = 0;
  cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (error == cudaSuccess) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (error == cudaSuccess)
    error = cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device);
  if (error != cudaSuccess || major < 9 || attributes.ptxVersion < 90) return error;
  // Whether `most` counts what the system reserves depends on the driver; a sample rarely needs the last kilobyte.
  const int bytes = most - reserved - static_cast<int>(attributes.sharedSizeBytes);
  if (bytes <= 0) return cudaSuccess;
  error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (error != cudaSuccess) return error;
  limits->shared_memory = bytes;
  for (int blocks = 1; blocks <= largest_cluster; blocks *= 2) {
    cudaLaunchAttribute size;
    const cudaLaunchConfig_t config = configuration(blocks, blocks, bytes, nullptr, &size);
    // A cluster that no part of the device can hold is an error to some drivers and 0 to others.
    if (settled(cudaOccupancyMaxActiveClusters(&limits->most[blocks], kernel, &config)) != cudaSuccess)
      limits->most[blocks] = 0;
  }
  return cudaSuccess;
}

int look_up(const CudaLoss& loss, const Limits** found) {
  if (loss.device < 0 || loss.device >= known_devices) return cudaErrorInvalidDevice;
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    static std::array<Limits, known_devices> limits;
    static std::array<std::atomic<bool>, known_devices> known;
    static std::mutex mutex;
    *found = &limits[loss.device];
    if (known[loss.device]) return cudaSuccess;
    const std::lock_guard<std::mutex> lock(mutex);
    if (known[loss.device]) return cudaSuccess;
    const DeviceGuard guard(loss.device);
    if (guard.error != cudaSuccess) return guard.error;
    Limits asked;
    const cudaError_t error = ask(loss_and_grad<T, with_reference, masked>, loss.device, &asked);
    if (error != cudaSuccess) return settled(error);
    limits[loss.device] = asked;
    known[loss.device] = true;
    return cudaSuccess;
  });
}

int64_t held_bytes(const CudaLoss& loss, int blocks) {
  return slice_of(loss.call.elements, blocks) * loss.call.draws * static_cast<int64_t>(sizeof(float));
}

}  // namespace

bool plan_cluster(const CudaLoss& loss, Plan* plan, int* error) {
  *error = cudaSuccess;
  if (loss.call.draws > cluster_draws) return false;
  const Limits* limits = nullptr;
  *error = look_up(loss, &limits);
  if (*error != cudaSuccess) return false;
  int blocks = 1;
  while (blocks < largest_cluster && held_bytes(loss, blocks) > limits->shared_memory) blocks *= 2;
  if (held_bytes(loss, blocks) > limits->shared_memory || limits->most[blocks] == 0) return false;
  // Few samples: more blocks for each of them, while all fit onto the device at once.
  while (blocks < largest_cluster && loss.call.batch <= limits->most[2 * blocks] &&
         slice_of(loss.call.elements, blocks) * loss.call.draws >= 2 * smallest_slice)
    blocks *= 2;
  if (loss.call.batch > INT32_MAX / blocks) return false;
  *plan = {loss.call.batch, 1, blocks, static_cast<int32_t>(loss.call.batch), Form::cluster};
  return true;
}

int launch_cluster(const CudaLoss& loss, const Plan& plan) {
  const DeviceGuard guard(loss.device);
  if (guard.error != cudaSuccess) return guard.error;
  const bool aligned = rows_are_aligned(loss);
  cudaLaunchAttribute size;
  const cudaLaunchConfig_t config = configuration(
      loss.call.batch * plan.blocks, plan.blocks, held_bytes(loss, plan.blocks), loss.stream, &size);
  return dispatch(loss, [&]<class T, bool with_reference, bool masked>() -> int {
    return settled(cudaLaunchKernelEx(
        &config, loss_and_grad<T, with_reference, masked>, loss, static_cast<int>(plan.blocks),
        slice_of(loss.call.elements, plan.blocks), aligned));
  });
}

}  // namespace tglo
