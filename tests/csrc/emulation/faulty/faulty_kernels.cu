// Kernels with one fault each, named on the command line; the emulation has to report it.
#include <cooperative_groups.h>
#include <cuda_runtime.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

namespace {

constexpr int threads = 64;

__global__ void __launch_bounds__(threads) divergent(float* out) {
  __shared__ float number;
  if (threadIdx.x < 32) {
    if (threadIdx.x == 0) number = 1.0f;
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = number;
}

__global__ void early_exit(float* out) {
  if (threadIdx.x == 40) return;
  __syncthreads();
  out[threadIdx.x] = 1.0f;
}

__global__ void shuffle(float* out) {
  float value = 1.0f;
  if (threadIdx.x % 2) value = __shfl_xor_sync(0xffffffffu, value, 1);
  else value = __shfl_xor_sync(0xffffffffu, value, 2);
  out[threadIdx.x] = value;
}

__global__ void absent_lane(float* out) {
  if (threadIdx.x % 32 == 31) return;
  if (threadIdx.x % 32 == 0) __nanosleep(20);
  out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1.0f, 1);
}

__global__ void deadlock(uint32_t* counter) {
  uint32_t value = 0;
  while (value == 0) asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
}

__global__ void left_cluster(float* out) {
  __shared__ float number;
  const auto cluster = cooperative_groups::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank());
  number = 1.0f;
  cluster.sync();
  if (rank == 0) out[threadIdx.x] = *cluster.map_shared_rank(&number, 1);
}

__global__ void not_cooperative(float* out) {
  cooperative_groups::this_grid().sync();
  out[threadIdx.x] = 1.0f;
}

__global__ void misaligned(float* out) {
  const float4 four = __ldg(reinterpret_cast<const float4*>(out + 1));
  out[threadIdx.x] = four.x;
}

template <class Kernel, class Argument>
cudaError_t with_attribute(Kernel kernel, Argument argument, unsigned grid, cudaLaunchAttribute attribute) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(grid);
  config.blockDim = dim3(threads);
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, argument);
}

cudaLaunchAttribute clusters_of(unsigned blocks) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = blocks;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

cudaLaunchAttribute together() {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = 1;
  return attribute;
}

int limits(float* out) {
  printf("%d\n", with_attribute(not_cooperative, out, 1000000, together()));
  printf("%d\n", with_attribute(not_cooperative, out, 16, clusters_of(16)));
  printf("%d\n", cudaFuncSetAttribute(not_cooperative, cudaFuncAttributeMaxDynamicSharedMemorySize, 1 << 20));
  cudaGetLastError();
  printf("%d\n", cudaGetLastError());
  cudaStream_t stream;
  cudaStreamCreate(&stream);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  void* memory = nullptr;
  printf("%d\n", cudaMalloc(&memory, 8));
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  printf("%d\n", cudaMalloc(&memory, 8));
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const char* name = count > 1 ? arguments[1] : "";
  float* out = nullptr;
  uint32_t* counter = nullptr;
  cudaMalloc(reinterpret_cast<void**>(&out), 256 * sizeof(float));
  cudaMalloc(reinterpret_cast<void**>(&counter), sizeof(uint32_t));
  cudaMemset(counter, 0, sizeof(uint32_t));
  if (!strcmp(name, "limits")) return limits(out);
  if (!strcmp(name, "divergent")) divergent<<<1, threads>>>(out);
  if (!strcmp(name, "early_exit")) early_exit<<<1, threads>>>(out);
  if (!strcmp(name, "shuffle")) shuffle<<<1, threads>>>(out);
  if (!strcmp(name, "absent_lane")) absent_lane<<<1, threads>>>(out);
  if (!strcmp(name, "deadlock")) deadlock<<<2, threads>>>(counter);
  if (!strcmp(name, "left_cluster")) with_attribute(left_cluster, out, 2, clusters_of(2));
  if (!strcmp(name, "not_cooperative")) not_cooperative<<<1, threads>>>(out);
  if (!strcmp(name, "misaligned")) misaligned<<<1, threads>>>(out);
  if (cudaGetLastError() == cudaSuccess) return 0;
  printf("every call fails from then on: %d\n", cudaDeviceSynchronize() != cudaSuccess);
  return 3;
}
