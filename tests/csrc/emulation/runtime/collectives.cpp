// Where threads of a launch wait for each other, and the memory of its blocks.
#include <algorithm>
#include <cstdlib>

#include "launch.h"

namespace emulation {

void Launch::at_barrier(Thread& thread) {
  Block& block = *thread.block;
  thread.state = State::barrier;
  ++block.at_barrier;
  if (block.alive < static_cast<int>(block.threads.size()))
    return give_up(cudaErrorLaunchFailure, text("block %u: a barrier after some threads have ended\n", block.index) +
                                               describe());
  if (block.at_barrier < block.alive) return;
  for (const Thread& other : block.threads)
    if (!(other.site == thread.site))
      return give_up(cudaErrorLaunchFailure, text("block %u: its threads meet at different barriers\n", block.index) +
                                                 describe());
  block.at_barrier = 0;
  ++block.barriers;
  const size_t warps = block.warps.size(), first = random_() % warps, threads = block.threads.size();
  for (size_t k = 0; k < warps; ++k) {
    const size_t warp = (first + k) % warps;
    for (size_t index = warp * warp_size; index < std::min(threads, (warp + 1) * warp_size); ++index)
      wake(block.threads[index]);
  }
}

void Launch::in_warp(Thread& thread) {
  Block& block = *thread.block;
  Warp& warp = block.warps[thread.index / warp_size];
  const unsigned bit = 1u << (thread.index % warp_size);
  thread.state = State::warp;
  if (!(thread.mask & bit))
    return give_up(cudaErrorLaunchFailure, text("block %u, thread %d is not in its own mask\n", block.index, thread.index));
  for (Collective& waiting : warp.pending) {
    if (!(waiting.mask & thread.mask)) continue;
    if (waiting.mask != thread.mask || !(waiting.site == thread.site) || waiting.request != thread.request)
      return give_up(cudaErrorLaunchFailure,
                     text("block %u, warp %d: its lanes exchange in different places or with different masks\n",
                          block.index, thread.index / warp_size) + describe());
    waiting.arrived |= bit;
    if (waiting.arrived == waiting.mask) {
      const Collective whole = waiting;
      std::erase_if(warp.pending, [&](const Collective& other) { return other.mask == whole.mask; });
      complete(block, warp, whole);
    }
    return;
  }
  const int first = thread.index / warp_size * warp_size;
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!(thread.mask >> lane & 1)) continue;
    if (first + lane >= static_cast<int>(block.threads.size()) || block.threads[first + lane].state == State::done)
      return give_up(cudaErrorLaunchFailure,
                     text("block %u, thread %d waits for lane %d, which has ended\n", block.index, thread.index, lane));
  }
  warp.pending.push_back({thread.site, thread.request, thread.mask, bit});
  if (thread.mask == bit) {
    const Collective whole = warp.pending.back();
    warp.pending.pop_back();
    complete(block, warp, whole);
  }
}

void Launch::complete(Block& block, Warp& warp, Collective collective) {
  const int first = static_cast<int>(&warp - block.warps.data()) * warp_size;
  uint64_t values[warp_size] = {};
  unsigned ballot = 0;
  for (int lane = 0; lane < warp_size; ++lane)
    if (collective.mask >> lane & 1) {
      values[lane] = block.threads[first + lane].value;
      ballot |= (values[lane] != 0) ? 1u << lane : 0u;
    }
  for (int lane = 0; lane < warp_size; ++lane) {
    if (!(collective.mask >> lane & 1)) continue;
    Thread& thread = block.threads[first + lane];
    if (collective.request == Request::exchange && !(collective.mask >> (thread.source & 31) & 1))
      return give_up(cudaErrorLaunchFailure, text("block %u, thread %d reads lane %d, which takes no part\n",
                                                  block.index, thread.index, thread.source));
    thread.value = collective.request == Request::ballot ? ballot : values[thread.source & 31];
    wake(thread);
  }
}

void Launch::cluster_arrive(Thread& thread) {
  Cluster& cluster = *thread.block->cluster;
  if (thread.arrivals != thread.waits)
    return give_up(cudaErrorLaunchFailure,
                   text("block %u, thread %d arrives at its cluster's barrier twice without a wait\n",
                        thread.block->index, thread.index));
  thread.value = thread.arrivals++;
  wake(thread);
  if (++cluster.arrived < cluster.threads) return;
  cluster.arrived = 0;
  ++cluster.phase;
  for (Block* block : cluster.blocks) {
    if (!block) continue;
    for (Thread& other : block->threads)
      if (other.state == State::cluster && other.waits <= cluster.phase) wake(other);
  }
}

void Launch::cluster_wait(Thread& thread) {
  if (thread.value + 1 != thread.arrivals || thread.waits == thread.arrivals)
    return give_up(cudaErrorLaunchFailure,
                   text("block %u, thread %d waits for a meeting of its cluster that it has not arrived at\n",
                        thread.block->index, thread.index));
  thread.waits = thread.arrivals;
  thread.block->waited_until = std::max(thread.block->waited_until, thread.waits);
  if (thread.block->cluster->phase >= thread.waits) return wake(thread);
  thread.state = State::cluster;
}

void Launch::at_grid(Thread& thread) {
  if (!configuration_.cooperative)
    return give_up(cudaErrorLaunchFailure, "a barrier of the grid in a launch that is not cooperative\n");
  thread.state = State::grid;
  at_grid_.push_back(&thread);
  if (at_grid_.size() < resident_.size() * resident_.front()->threads.size()) return;
  for (Thread* other : at_grid_) wake(*other);
  at_grid_.clear();
}

// Called by each thread for each variable: the first one makes it.
void Launch::allocate(Thread& thread) {
  Block& block = *thread.block;
  wake(thread);
  const bool dynamic = thread.size == 0;
  for (const SharedMemory& memory : block.shared)
    if (memory.site == thread.site) {
      thread.pointer = memory.data;
      return;
    }
  const size_t size = dynamic ? configuration_.dynamic_shared : thread.size;
  if (!dynamic) block.static_bytes += size;
  void* data = nullptr;
  if (posix_memalign(&data, std::max<size_t>(thread.alignment, 16), size ? size : 1)) abort();
  fill_with_ones(static_cast<char*>(data), size);
  release(data);
  block.shared.push_back({thread.site, static_cast<char*>(data), size});
  thread.pointer = data;
  if (block.static_bytes + configuration_.dynamic_shared > most_shared_memory())
    give_up(cudaErrorLaunchFailure,
            text("a block has %zu bytes of shared memory, more than the device's %zu\n",
                 block.static_bytes + configuration_.dynamic_shared, most_shared_memory()));
}

void Launch::map(Thread& thread) {
  Block& block = *thread.block;
  Cluster& cluster = *block.cluster;
  wake(thread);
  if (thread.source >= static_cast<int>(cluster.blocks.size()))
    return give_up(cudaErrorLaunchFailure, text("block %u reads the memory of rank %d of a cluster of %zu\n", block.index,
                                                thread.source, cluster.blocks.size()));
  Block* other = cluster.blocks[thread.source];
  if (!other)
    return give_up(cudaErrorLaunchFailure, text("block %u reads the shared memory of a block of its cluster that has ended\n",
                                                block.index));
  for (const SharedMemory& mine : block.shared) {
    const ptrdiff_t offset = static_cast<char*>(thread.pointer) - mine.data;
    if (offset < 0 || offset >= static_cast<ptrdiff_t>(mine.size)) continue;
    for (const SharedMemory& theirs : other->shared)
      if (theirs.site == mine.site) {
        thread.pointer = theirs.data + offset;
        thread.base = theirs.data;
        if (other != &block) other->read_until = std::max(other->read_until, thread.arrivals + 1);
        return;
      }
    return give_up(cudaErrorLaunchFailure, text("block %u reads shared memory that its neighbour does not have yet\n", block.index));
  }
  give_up(cudaErrorLaunchFailure, text("block %u maps what is not its shared memory\n", block.index));
}

}  // namespace emulation
