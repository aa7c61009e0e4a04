// One launch: its blocks, their threads, and the scheduler that lets them take turns on the calling thread. Who runs next is
// drawn from a seed, so that a fault comes again.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "emulation.h"
#include "fibers.h"

namespace emulation {

constexpr int warp_size = 32;

struct Block;

enum class State { ready, barrier, warp, cluster, grid, sleeping, done };

// What a paused thread asks for.
enum class Request { finish, barrier, exchange, ballot, cluster_arrive, cluster_wait, grid, sleep, load, update,
                     shared, map, fault };

struct Thread {
  uint3 place;
  Block* block = nullptr;
  Fiber* fiber = nullptr;
  State state = State::ready;
  int index = 0;
  // the request and its answer
  Request request = Request::finish;
  Site site = {"", 0};
  unsigned mask = 0;
  int source = 0;
  uint64_t value = 0;
  size_t size = 0, alignment = 0;
  void *pointer = nullptr, *base = nullptr;
  uint64_t arrivals = 0, waits = 0;  // at the cluster's barrier
};

// Lanes that wait for each other in a shuffle or the like.
struct Collective {
  Site site;
  Request request;
  unsigned mask, arrived;
};

struct Warp {
  std::vector<Collective> pending;
  char order = 0;
};

struct SharedMemory {
  Site site;
  char* data;
  size_t size;
};

struct Cluster {
  std::vector<Block*> blocks;
  uint64_t phase = 0;  // completed meetings
  int arrived = 0, threads = 0, finished_blocks = 0;
  char orders[2] = {};
};

struct Block {
  Cluster* cluster = nullptr;
  unsigned index = 0, rank = 0;
  uint3 place = {};
  std::vector<Thread> threads;
  std::vector<Warp> warps;
  std::deque<Thread*> ready;
  std::vector<Thread*> sleeping;
  std::vector<SharedMemory> shared;
  size_t static_bytes = 0;
  int alive = 0, at_barrier = 0;
  uint64_t barriers = 0, priority = 0;
  char orders[2] = {};
  char* grid_order = nullptr;
  // a neighbour has read this block's memory before meeting `read_until`; this block has waited for `waited_until`
  uint64_t read_until = 0, waited_until = 0;
};

struct Configuration {
  const Kernel* kernel;
  dim3 grid, block;
  size_t dynamic_shared;
  unsigned cluster;  // blocks of one
  bool cooperative;
  std::function<void()> body;
};

class Launch {
 public:
  Launch(const Configuration& configuration, uint64_t seed);
  ~Launch();
  cudaError_t run();
  void start_thread(Thread& thread);
  void end_thread(Thread& thread);

 private:
  void admit();
  void run_block(Block& block);
  Block* pick();
  bool handle(Thread& thread);  // true: others may run first
  void finish(Thread& thread);
  void finish_block(Block& block);
  void at_barrier(Thread& thread);
  void in_warp(Thread& thread);
  void complete(Block& block, Warp& warp, Collective collective);
  void cluster_arrive(Thread& thread);
  void cluster_wait(Thread& thread);
  void at_grid(Thread& thread);
  void allocate(Thread& thread);
  void map(Thread& thread);
  void wake(Thread& thread);
  void give_up(cudaError_t error, const std::string& what);
  std::string describe() const;

  Configuration configuration_;
  std::mt19937_64 random_;
  std::vector<unsigned> order_;  // of clusters
  size_t next_ = 0;
  std::vector<std::unique_ptr<Cluster>> clusters_;
  std::vector<std::unique_ptr<Block>> resident_;
  std::vector<Thread*> at_grid_;
  std::vector<char*> garbage_;
  unsigned most_clusters_ = 1;
  uint64_t idle_ = 0;
  char begin_ = 0, end_ = 0, grid_order_ = 0;
  cudaError_t error_ = cudaSuccess;
};

size_t most_shared_memory();  // of a block, on the emulated device
void fill_with_ones(char* data, size_t size);
Thread* running_thread();
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));
FiberPool& pool();

}  // namespace emulation
