// The cases, by name, in as many as the form of the run asks for.
#pragma once

#include <functional>

#include "check.h"

namespace driver {

// How much of everything: `few` for sanitizers and planted faults, `plain` for every test run.
struct Amount {
  int loss_cases;        // drawn from all combinations
  int64_t most_elements;  // of one of them, over all rows
  bool large;            // the row of two million, and sizes near it
  int noise_cases, token_cases;
};

void loss_cases(const Amount& amount);
void noise_cases(const Amount& amount);
void token_cases(const Amount& amount);
void limit_cases();

// Runs `work(stream)` on two threads with a stream each, at the same time.
void on_two_streams(const std::function<void(int index, void* stream)>& work);

// Captures `work(stream)` and replays it twice; `before` each replay.
void as_graph(const std::function<int(void* stream)>& work, const std::function<void()>& before,
              const std::function<void(int error)>& after);

}  // namespace driver
