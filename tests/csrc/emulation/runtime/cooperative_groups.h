// In place of the toolkit's header, which is for nvcc alone.
#pragma once

#define TGLO_CALLER_FILE __builtin_FILE()
#define TGLO_CALLER_LINE __builtin_LINE()

namespace cooperative_groups {

struct cluster_group {
  struct arrival_token {
    uint64_t phase;
  };

  static unsigned block_rank() { return ::emulation::cluster_rank(); }
  static unsigned num_blocks() { return ::emulation::cluster_blocks(); }
  static arrival_token barrier_arrive(const char* file = TGLO_CALLER_FILE, int line = TGLO_CALLER_LINE) {
    return {::emulation::cluster_arrive({file, line})};
  }
  static void barrier_wait(arrival_token&& token, const char* file = TGLO_CALLER_FILE, int line = TGLO_CALLER_LINE) {
    ::emulation::cluster_wait({file, line}, token.phase);
  }
  static void sync(const char* file = TGLO_CALLER_FILE, int line = TGLO_CALLER_LINE) {
    ::emulation::cluster_wait({file, line}, ::emulation::cluster_arrive({file, line}));
  }
  template <class T>
  static T* map_shared_rank(
      T* pointer, int rank, const char* file = TGLO_CALLER_FILE, int line = TGLO_CALLER_LINE) {
    return static_cast<T*>(::emulation::cluster_map(
        {file, line}, const_cast<void*>(static_cast<const void*>(pointer)), static_cast<unsigned>(rank)));
  }
};
inline cluster_group this_cluster() { return {}; }

struct grid_group {
  static void sync(const char* file = TGLO_CALLER_FILE, int line = TGLO_CALLER_LINE) {
    ::emulation::grid_barrier({file, line});
  }
};
inline grid_group this_grid() { return {}; }

struct thread_block {
  static void sync(const char* file = TGLO_CALLER_FILE, int line = TGLO_CALLER_LINE) {
    ::emulation::block_barrier({file, line});
  }
};
inline thread_block this_thread_block() { return {}; }

}  // namespace cooperative_groups
