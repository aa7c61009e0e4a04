// Integer counters with which blocks of one launch tell each other that sums are in memory. `Counter` supplies
//   static uint32_t add(uint32_t* counter, uint32_t value);  // atomic, acquire and release; returns the old value
//   static uint32_t load(uint32_t* counter);                 // atomic, acquire
//   static void pause();                                     // between two looks
// On the GPU these are instructions; the tests run the same code on CPU threads.
#pragma once

#include <stdint.h>

#include "common/launch.h"

namespace tglo {

// True for the last of `count` blocks. That one puts the counter back to 0 when it has done its work.
template <class Counter>
TGLO_HOST_DEVICE inline bool arrives_last(uint32_t* counter, uint32_t count) {
  return Counter::add(counter, 1) == count - 1;
}

// Meeting points of the `blocks` blocks of a group that go through samples 0, 1, 2, ... together: each block writes its
// sums of sample i, arrives at i, waits for i, and reads the others' sums.
//
// Two counters take turns and never go down: nobody arrives at i + 2 before having waited for i + 1, which takes every
// arrival at i, so a counter's value tells arrivals at i and i + 2 apart. Whoever has arrived at i + 1 has read the sums
// of i: once i + 1 has been waited for, the place of the sums of i is free for those of i + 2. Sums need two places in turn.
template <class Counter>
struct Meeting {
  static constexpr uint32_t counters = 2;
  static constexpr int64_t buffers = 2;

  uint32_t* counter;  // two zeros before the first arrival
  uint32_t blocks;

  TGLO_HOST_DEVICE void arrive(int64_t i) const { Counter::add(counter + (i & 1), 1); }

  TGLO_HOST_DEVICE void wait(int64_t i) const {
    const uint32_t all = static_cast<uint32_t>(i / 2 + 1) * blocks;
    while (Counter::load(counter + (i & 1)) < all) Counter::pause();
  }
};

}  // namespace tglo
