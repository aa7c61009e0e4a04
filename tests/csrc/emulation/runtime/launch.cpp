// The scheduler of a launch.
#include "launch.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

thread_local uint3 threadIdx, blockIdx;
thread_local dim3 blockDim, gridDim;

namespace emulation {

namespace {
thread_local Launch* current = nullptr;
thread_local Thread* running = nullptr;

void fiber_body() {
  for (bool first = true;; first = false) {
    Fiber* fiber = running->fiber;
    if (first) fiber->enter();
    current->start_thread(*running);
    current->end_thread(*running);
    fiber->pause();
  }
}
}  // namespace

FiberPool& pool() {
  static thread_local FiberPool fibers(fiber_body);
  return fibers;
}

Thread* running_thread() { return running; }

std::string text(const char* format, ...) {
  char buffer[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof(buffer), format, arguments);
  va_end(arguments);
  return buffer;
}

Launch::Launch(const Configuration& configuration, uint64_t seed) : configuration_(configuration), random_(seed) {
  const dim3 grid = configuration.grid;
  order_.resize(grid.x * grid.y * grid.z / configuration.cluster);
  for (size_t k = 0; k < order_.size(); ++k) order_[k] = static_cast<unsigned>(k);
  std::shuffle(order_.begin(), order_.end(), random_);
  most_clusters_ = configuration.cooperative ? static_cast<unsigned>(order_.size()) : 1 + random_() % 3;
#if defined(TGLO_EMULATION_TSAN)
  if (!configuration.cooperative && configuration.cluster > 1) most_clusters_ = 1;  // it takes a limited number of fibers
#endif
}

Launch::~Launch() {
  for (char* memory : garbage_) free(memory);
}

void Launch::start_thread(Thread&) {
  acquire(&begin_);
  configuration_.body();
}

void Launch::end_thread(Thread& thread) {
  release(&end_);
  thread.request = Request::finish;
}

cudaError_t Launch::run() {
  Launch* const outer = current;
  current = this;
  release(&begin_);
  while (clusters_.size() < most_clusters_ && next_ < order_.size()) admit();
  while (error_ == cudaSuccess && !resident_.empty())
    if (Block* block = pick()) run_block(*block);
  current = outer;
  running = nullptr;
  acquire(&end_);
  if (error_ == cudaSuccess) pool().end_launch();
  else pool().forget();
  return error_;
}

// The next cluster comes onto the GPU.
void Launch::admit() {
  const unsigned number = order_[next_++], size = configuration_.cluster;
  const dim3 grid = configuration_.grid, shape = configuration_.block;
  const int threads = static_cast<int>(shape.x * shape.y * shape.z);
  clusters_.push_back(std::make_unique<Cluster>());
  Cluster& cluster = *clusters_.back();
  cluster.threads = threads * static_cast<int>(size);
  for (unsigned rank = 0; rank < size; ++rank) {
    resident_.push_back(std::make_unique<Block>());
    Block& block = *resident_.back();
    cluster.blocks.push_back(&block);
    block.cluster = &cluster;
    block.index = number * size + rank;
    block.rank = rank;
    const unsigned b = block.index;
    block.place = {b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y};
    block.alive = threads;
    block.grid_order = &grid_order_;
    block.priority = random_();
    block.threads.resize(threads);
    block.warps.resize((threads + warp_size - 1) / warp_size);
    std::vector<int> warps(block.warps.size());
    for (size_t k = 0; k < warps.size(); ++k) warps[k] = static_cast<int>(k);
    std::shuffle(warps.begin(), warps.end(), random_);
    for (int index = 0; index < threads; ++index) {
      Thread& thread = block.threads[index];
      thread.block = &block;
      thread.index = index;
      const unsigned t = static_cast<unsigned>(index);
      thread.place = {t % shape.x, t / shape.x % shape.y, t / shape.x / shape.y};
    }
    for (int warp : warps)
      for (int index = warp * warp_size; index < std::min(threads, (warp + 1) * warp_size); ++index)
        block.ready.push_back(&block.threads[index]);
  }
}

// The block that may go on. The order is meant to be unfair: a block stays behind as long as the others can do without.
Block* Launch::pick() {
  Block* best = nullptr;
  std::vector<Block*> sleeping;
  for (const std::unique_ptr<Block>& block : resident_) {
    if (!block->ready.empty() && (!best || block->priority > best->priority)) best = block.get();
    if (block->ready.empty() && !block->sleeping.empty()) sleeping.push_back(block.get());
  }
  if (best && (sleeping.empty() || random_() % 16)) return best;
  if (sleeping.empty()) {
    give_up(cudaErrorLaunchTimeout, "deadlock: every thread waits\n" + describe());
    return nullptr;
  }
  if (!best && ++idle_ > 10000 + 1000 * resident_.size()) {
    give_up(cudaErrorLaunchTimeout, "deadlock: blocks poll what nobody changes\n" + describe());
    return nullptr;
  }
  Block* block = sleeping[random_() % sleeping.size()];
  for (Thread* thread : block->sleeping) wake(*thread);
  block->sleeping.clear();
  return block;
}

void Launch::wake(Thread& thread) {
  thread.state = State::ready;
  thread.block->ready.push_back(&thread);
}

void Launch::run_block(Block& block) {
  while (!block.ready.empty()) {
    Thread& thread = *block.ready.front();
    block.ready.pop_front();
    if (!thread.fiber) thread.fiber = pool().take();
    running = &thread;
    threadIdx = thread.place;
    blockIdx = block.place;
    blockDim = configuration_.block;
    gridDim = configuration_.grid;
    thread.fiber->resume();
    const bool last = thread.request == Request::finish && block.alive == 1;
    const bool others_first = handle(thread);
    if (error_ != cudaSuccess || last) return;  // a finished block is gone
    if (others_first) {
      block.priority = random_();
      return;
    }
  }
}

bool Launch::handle(Thread& thread) {
  if (thread.request != Request::load && thread.request != Request::sleep) idle_ = 0;
  switch (thread.request) {
    case Request::finish: finish(thread); break;
    case Request::barrier: at_barrier(thread); break;
    case Request::exchange:
    case Request::ballot: in_warp(thread); break;
    case Request::cluster_arrive: cluster_arrive(thread); break;
    case Request::cluster_wait: cluster_wait(thread); break;
    case Request::grid: at_grid(thread); break;
    case Request::shared: allocate(thread); break;
    case Request::map: map(thread); return random_() % 2;
    case Request::update: wake(thread); return random_() % 2;
    case Request::load:
    case Request::sleep:
      thread.state = State::sleeping;
      thread.block->sleeping.push_back(&thread);
      break;
    case Request::fault:
      give_up(static_cast<cudaError_t>(thread.source),
              text("%s: block %u, thread %d\n", static_cast<const char*>(thread.pointer), thread.block->index,
                   thread.index));
      break;
  }
  return false;
}

void Launch::finish(Thread& thread) {
  Block& block = *thread.block;
  thread.state = State::done;
  if (thread.fiber->overflowed()) {
    give_up(cudaErrorLaunchFailure, text("block %u, thread %d: its stack is full\n", block.index, thread.index));
    return;
  }
  pool().give_back(thread.fiber);
  --block.alive;
  for (const Collective& waiting : block.warps[thread.index / warp_size].pending)
    if (waiting.mask >> (thread.index % warp_size) & 1)
      give_up(cudaErrorLaunchFailure, text("block %u, thread %d ends while its warp waits for it\n", block.index,
                                           thread.index) + describe());
  if (block.at_barrier)
    give_up(cudaErrorLaunchFailure, text("block %u, thread %d ends while its block waits at a barrier\n", block.index,
                                         thread.index) + describe());
  if (block.alive == 0 && error_ == cudaSuccess) finish_block(block);
}

void Launch::finish_block(Block& block) {
  if (block.read_until > block.waited_until) {
    give_up(cudaErrorLaunchFailure,
            text("block %u ends while a block of its cluster may still read its shared memory\n", block.index));
    return;
  }
  for (const SharedMemory& memory : block.shared) {
#if defined(TGLO_EMULATION_ASAN)
    free(memory.data);
#else
    fill_with_ones(memory.data, memory.size);
    garbage_.push_back(memory.data);
#endif
  }
  Cluster& cluster = *block.cluster;
  cluster.blocks[block.rank] = nullptr;
  const bool whole = ++cluster.finished_blocks == static_cast<int>(configuration_.cluster);
  std::erase_if(resident_, [&](const std::unique_ptr<Block>& other) { return other.get() == &block; });
  if (!whole) return;
  std::erase_if(clusters_, [&](const std::unique_ptr<Cluster>& other) { return other.get() == &cluster; });
#if !defined(TGLO_EMULATION_TSAN)
  if (resident_.empty()) {
    for (char* memory : garbage_) free(memory);
    garbage_.clear();
  }
#endif
  if (next_ < order_.size()) admit();
}

void Launch::give_up(cudaError_t error, const std::string& what) {
  if (error_ != cudaSuccess) return;
  error_ = error;
  fprintf(stderr, "emulation: fault in %s<<<%u, %u>>>: %s", configuration_.kernel->name, configuration_.grid.x,
          configuration_.block.x, what.c_str());
}

std::string Launch::describe() const {
  static const char* const names[] = {"could go on", "wait at a barrier", "wait for their warp", "wait for their cluster",
                                      "wait for the grid", "sleep", "are done"};
  std::string all;
  int lines = 0;
  for (const std::unique_ptr<Block>& block : resident_) {
    std::map<std::string, int> counts;
    for (const Thread& thread : block->threads) {
      const bool waits = thread.state != State::ready && thread.state != State::done && thread.state != State::sleeping;
      const char* file = strrchr(thread.site.file, '/');
      ++counts[std::string(names[static_cast<int>(thread.state)]) +
               (waits ? text(" (%s:%d)", file ? file + 1 : thread.site.file, thread.site.line) : std::string())];
    }
    for (const auto& [what, count] : counts)
      if (++lines <= 40) all += text("  block %u: %d threads %s\n", block->index, count, what.c_str());
  }
  return all;
}

}  // namespace emulation
