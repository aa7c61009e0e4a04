#include <cuda_runtime.h>

#include <condition_variable>
#include <mutex>
#include <thread>
#include <utility>

#include "cases.h"

namespace driver {
namespace {

// A second thread that stays: the stacks of its CUDA threads, which the thread sanitizer takes long to make, are kept from
// one piece of work to the next.
class Companion {
 public:
  ~Companion() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

  void begin(std::function<void()> work) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      work_ = std::move(work);
    }
    changed_.notify_all();
  }

  void wait() {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return !work_; });
  }

 private:
  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return work_ || over_; });
      if (over_) return;
      lock.unlock();
      work_();
      lock.lock();
      work_ = nullptr;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::function<void()> work_;
  bool over_ = false;
  std::thread thread_{[this] { serve(); }};
};

}  // namespace

void on_two_streams(const std::function<void(int index, void* stream)>& work) {
  static Companion companion;
  const auto one = [&](int index) {
    cudaStream_t stream = nullptr;
    cudaStreamCreate(&stream);
    work(index, stream);
    cudaStreamDestroy(stream);
  };
  companion.begin([&] { one(1); });
  one(0);
  companion.wait();
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
