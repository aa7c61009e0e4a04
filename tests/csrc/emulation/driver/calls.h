// The only place of the driver that fills in the structures of csrc/.
#pragma once

#include "loss/cuda.h"
#include "problem.h"

namespace driver {

enum class Way { error, two_launches, at_once, cluster, cooperative };
const char* name_of(Way way);

// Memory that one call writes, poisoned at the start.
struct Outputs {
  explicit Outputs(const Inputs& inputs);

  void poison();
  bool intact() const;
  std::vector<char> bytes() const;  // of all results, for comparisons bit for bit

  Buffer loss, implicit_score, policy_error, reference_error, coefficient, gradient;
};

// Workspace and counters for calls on one stream.
struct Scratch {
  Buffer workspace{0}, counters{0};
  void resize(int64_t doubles, int64_t count);
  bool counters_are_zero() const;
};

// True if the problem can go this way on the emulated device; fills in the plan.
bool plan(const Inputs& inputs, Way way, tglo::Plan* plan, int* error);

// Queues the call on the stream: CUDA's error code. `scratch` must be as large as the plan.
int call(const Inputs& inputs, Way way, const tglo::Plan& plan, Outputs& outputs, Scratch& scratch, void* stream);

// After a call that failed: true if another form is left, which is what `plan` then gives.
bool give_up(const Inputs& inputs, Way way, const tglo::Plan& plan, int error);

// From now on loss and gradient at once are two launches on this device.
void give_up_all(const Inputs& inputs);

// The gradient of the CPU kernel from the same coefficients.
void gradient_on_cpu(const Inputs& inputs, const double* coefficient, Buffer& gradient);

}  // namespace driver
