// The kernels' side of the scheduler. Nothing here but fields of the thread is written on a fiber: the scheduler does the
// rest, on its own stack.
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

#include "launch.h"

namespace emulation {

namespace {
Thread& ask(Request request, Site site) {
  Thread& thread = *running_thread();
  thread.request = request;
  thread.site = site;
  thread.fiber->pause();
  return thread;
}
}  // namespace

void block_barrier(Site site) {
  Block& block = *running_thread()->block;
  char* order = &block.orders[block.barriers % 2];
  release(order);
  ask(Request::barrier, site);
  acquire(order);
}

uint64_t warp_exchange(Site site, unsigned mask, uint64_t value, int source_lane) {
  Thread& thread = *running_thread();
  thread.mask = mask;
  thread.value = value;
  thread.source = source_lane;
  return ask(Request::exchange, site).value;
}

unsigned warp_ballot(Site site, unsigned mask, bool value) {
  Thread& thread = *running_thread();
  thread.mask = mask;
  thread.value = value;
  char* order = &thread.block->warps[thread.index / warp_size].order;
  release(order);
  const unsigned result = static_cast<unsigned>(ask(Request::ballot, site).value);
  acquire(order);
  return result;
}

uint64_t cluster_arrive(Site site) {
  Thread& thread = *running_thread();
  release(&thread.block->cluster->orders[thread.arrivals % 2]);
  return ask(Request::cluster_arrive, site).value;
}

void cluster_wait(Site site, uint64_t token) {
  Thread& thread = *running_thread();
  thread.value = token;
  Cluster& cluster = *thread.block->cluster;
  ask(Request::cluster_wait, site);
  acquire(&cluster.orders[token % 2]);
}

void grid_barrier(Site site) {
  Thread& thread = *running_thread();
  char* order = thread.block->grid_order;
  release(order);
  ask(Request::grid, site);
  acquire(order);
}

void* cluster_map(Site site, void* pointer, unsigned rank) {
  Thread& thread = *running_thread();
  thread.pointer = pointer;
  thread.source = static_cast<int>(rank);
  ask(Request::map, site);
  acquire(thread.base);
  return thread.pointer;
}

unsigned cluster_rank() { return running_thread()->block->rank; }
unsigned cluster_blocks() { return static_cast<unsigned>(running_thread()->block->cluster->blocks.size()); }

void sleep_awhile() { ask(Request::sleep, running_thread()->site); }
void before_load() { ask(Request::load, running_thread()->site); }
void before_update() { ask(Request::update, running_thread()->site); }

void* shared_memory(Site site, size_t size, size_t alignment) {
  Thread& thread = *running_thread();
  thread.size = size;
  thread.alignment = alignment;
  ask(Request::shared, site);
  acquire(thread.pointer);
  return thread.pointer;
}

void* dynamic_shared_memory(size_t alignment) { return shared_memory({"dynamic shared memory", 0}, 0, alignment); }

void fault(cudaError_t error, const char* format, ...) {
  char buffer[1000];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(buffer, sizeof(buffer), format, arguments);
  va_end(arguments);
  Thread* thread = running_thread();
  if (!thread) {
    fprintf(stderr, "emulation: fault: %s\n", buffer);
    abort();
  }
  thread->pointer = buffer;
  thread->source = error;
  ask(Request::fault, thread->site);
  abort();  // a thread that has failed is not resumed
}

}  // namespace emulation
