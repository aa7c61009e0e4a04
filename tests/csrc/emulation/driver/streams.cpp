#include <cuda_runtime.h>

#include <thread>

#include "cases.h"

namespace driver {

void on_two_streams(const std::function<void(int index, void* stream)>& work) {
  const auto one = [&](int index) {
    cudaStream_t stream = nullptr;
    cudaStreamCreate(&stream);
    work(index, stream);
    cudaStreamDestroy(stream);
  };
  std::thread other(one, 1);
  one(0);
  other.join();
}

void as_graph(const std::function<int(void* stream)>& work, const std::function<void()>& before,
              const std::function<void(int error)>& after) {
  cudaStream_t stream = nullptr;
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cudaStreamCreate(&stream);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal);
  int error = work(stream);
  cudaStreamEndCapture(stream, &graph);
  cudaGraphInstantiate(&executable, graph, 0);
  cudaGraphDestroy(graph);
  for (int replay = 0; replay < 2; ++replay) {
    before();
    const int failed = cudaGraphLaunch(executable, stream);
    after(error ? error : failed);
  }
  cudaGraphExecDestroy(executable);
  cudaStreamDestroy(stream);
}

}  // namespace driver
