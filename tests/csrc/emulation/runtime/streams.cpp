// CUDA's functions about streams, graphs and memory. A stream does its work at once, on the calling thread; a graph is a
// list of closures.
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "api.h"
#include "launch.h"

struct CUgraph_st {
  std::vector<std::function<cudaError_t()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<cudaError_t()>> work;
};
static std::atomic<unsigned long long> streams_made{0};

struct CUstream_st {
  unsigned long long number = ++streams_made;
  CUgraph_st* captured = nullptr;
};

namespace emulation {
namespace {

std::atomic<int> captures{0};
thread_local cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;

// While a stream is captured, calls that may wait for the device are refused, unless the thread says that it knows.
bool refused() { return captures > 0 && mode != cudaStreamCaptureModeRelaxed; }

// Exact in size, its bytes all 1.
cudaError_t allocate(void** memory, size_t size) {
  if (posix_memalign(memory, 256, size ? size : 1)) return cudaErrorMemoryAllocation;
  fill_with_ones(static_cast<char*>(*memory), size);
  return cudaSuccess;
}

}  // namespace

cudaError_t queue(cudaStream_t stream, std::function<cudaError_t()> work) {
  if (!stream || !stream->captured) return work();
  stream->captured->work.push_back(std::move(work));
  return cudaSuccess;
}

}  // namespace emulation

using namespace emulation;

extern "C" {

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return result(cudaSuccess);
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return result(cudaSuccess);
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  return result(stream && stream->captured ? cudaErrorStreamCaptureUnsupported : cudaSuccess);
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status = stream && stream->captured ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return result(cudaSuccess);
}
cudaError_t cudaStreamGetId(cudaStream_t stream, unsigned long long* number) {
  *number = stream ? stream->number : 0;
  return result(cudaSuccess);
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->captured) return result(cudaErrorIllegalState);
  stream->captured = new CUgraph_st;
  ++captures;
  return result(cudaSuccess);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->captured) return result(cudaErrorIllegalState);
  *graph = stream->captured;
  stream->captured = nullptr;
  --captures;
  return result(cudaSuccess);
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* wanted) {
  std::swap(mode, *wanted);
  return result(cudaSuccess);
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{graph->work};
  return result(cudaSuccess);
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const auto& work : executable->work)
    if (const cudaError_t error = work()) return result(error);
  return result(cudaSuccess);
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return result(cudaSuccess);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  return result(cudaSuccess);
}

cudaError_t cudaMalloc(void** memory, size_t size) {
  return result(refused() ? cudaErrorStreamCaptureUnsupported : allocate(memory, size));
}
cudaError_t cudaMallocAsync(void** memory, size_t size, cudaStream_t) { return result(allocate(memory, size)); }
cudaError_t cudaFree(void* memory) {
  if (refused()) return result(cudaErrorStreamCaptureUnsupported);
  free(memory);
  return result(cudaSuccess);
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  return result(queue(stream, [memory] {
    free(memory);
    return cudaSuccess;
  }));
}
cudaError_t cudaMallocHost(void** memory, size_t size) { return result(allocate(memory, size)); }
cudaError_t cudaFreeHost(void* memory) {
  free(memory);
  return result(cudaSuccess);
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t size, cudaStream_t stream) {
  return result(queue(stream, [=] {
    memset(memory, value, size);
    return cudaSuccess;
  }));
}
cudaError_t cudaMemset(void* memory, int value, size_t size) {
  return result(refused() ? cudaErrorStreamCaptureUnsupported : (memset(memory, value, size), cudaSuccess));
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t size, cudaMemcpyKind, cudaStream_t stream) {
  return result(queue(stream, [=] {
    memcpy(to, from, size);
    return cudaSuccess;
  }));
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t size, cudaMemcpyKind) {
  return result(refused() ? cudaErrorStreamCaptureUnsupported : (memcpy(to, from, size), cudaSuccess));
}

}  // extern "C"
