// The counters of csrc/common/arrival.h on CPU threads and in permuted orders of blocks; exits with 1 at the first fault.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "common/arrival.h"

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAULT %s\n", what);
  std::exit(1);
}

struct ThreadCounter {
  static uint32_t add(uint32_t* counter, uint32_t value) {
    return std::atomic_ref<uint32_t>(*counter).fetch_add(value, std::memory_order_acq_rel);
  }
  static uint32_t load(uint32_t* counter) {
    return std::atomic_ref<uint32_t>(*counter).load(std::memory_order_acquire);
  }
  static void pause() { std::this_thread::yield(); }
};

// Blocks in any order: exactly one is the last, and it sees what all others wrote; launch after launch.
void blocks_in_permuted_orders() {
  std::mt19937 random(1);
  for (uint32_t blocks : {1u, 2u, 3u, 17u, 1000u}) {
    uint32_t counter = 0;
    std::vector<uint32_t> order(blocks);
    for (uint32_t i = 0; i < blocks; ++i) order[i] = i;
    for (int launch = 0; launch < 50; ++launch) {
      std::shuffle(order.begin(), order.end(), random);
      std::vector<int> written(blocks, 0);
      uint32_t last = 0;
      for (uint32_t block : order) {
        written[block] = 1;
        if (!tglo::arrives_last<ThreadCounter>(&counter, blocks)) continue;
        ++last;
        require(block == order.back(), "the last block is the one that came last");
        for (int mark : written) require(mark == 1, "the last block sees every sum");
        counter = 0;
      }
      require(last == 1 && counter == 0, "one last block, and a counter of 0 after it");
    }
  }
}

// Groups of blocks on real threads go through samples as the cooperative kernel does, with pauses at random places.
void meetings_on_threads() {
  using Meeting = tglo::Meeting<ThreadCounter>;
  for (const uint32_t blocks : {1u, 2u, 5u})
    for (const int64_t samples : {1, 2, 3, 40}) {
      uint32_t exit_counter = 0, counters[Meeting::counters] = {};
      for (int launch = 0; launch < 3; ++launch) {
        std::vector<int64_t> sums(Meeting::buffers * blocks, -1);  // plain memory: a race would be a wrong sum
        std::atomic<int> lasts{0};
        const auto block = [&](uint32_t rank) {
          std::mt19937 random(launch * 1000 + rank);
          const auto pause = [&] {
            if (random() % 4 == 0) std::this_thread::yield();
            if (random() % 64 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
          };
          const Meeting meeting = {counters, blocks};
          const auto sum = [&](int64_t i) {
            pause();
            sums[i % Meeting::buffers * blocks + rank] = i * 1000 + rank;
            meeting.arrive(i);
          };
          for (int64_t i = 0; i < samples; ++i) {
            sum(i);
            meeting.wait(i);
            for (uint32_t other = 0; other < blocks; ++other) {
              pause();
              require(
                  sums[i % Meeting::buffers * blocks + other] == i * 1000 + other,
                  "after the meeting a block reads the sums of this sample and no other");
            }
          }
          if (!tglo::arrives_last<ThreadCounter>(&exit_counter, blocks)) return;
          ++lasts;
          exit_counter = counters[0] = counters[1] = 0;
        };
        std::vector<std::thread> threads;
        for (uint32_t rank = 0; rank < blocks; ++rank) threads.emplace_back(block, rank);
        for (std::thread& thread : threads) thread.join();
        require(lasts == 1 && exit_counter == 0 && counters[0] == 0 && counters[1] == 0, "counters are 0 again");
      }
    }
}

}  // namespace

int main() {
  blocks_in_permuted_orders();
  meetings_on_threads();
  std::puts("PASSED");
}
