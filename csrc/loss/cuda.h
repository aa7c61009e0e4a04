// The plain interface of the CUDA kernels of the loss: no torch types, no CUDA types. Functions return CUDA's error code.
#pragma once

#include "loss/finish.h"

namespace tglo {

constexpr int64_t most_masked_elements = INT32_MAX;  // of a row with a mask

struct CudaLoss {
  Element type;
  const void *policy, *target, *reference;  // reference may be null
  void* gradient;                           // of loss_and_grad and the backward
  Mask mask;
  int64_t rows;
  LossCall call;       // pointers into the device's memory
  double* workspace;   // as many numbers as the kernel's plan says
  uint32_t* counters;  // zeros; zeros again after the launch
  int32_t device;
  void* stream;
};

// The forms of loss_and_grad, best first.
enum class Form : int32_t { cluster, cooperative, two_launches };

struct Plan {
  int64_t workspace;  // doubles
  int64_t counters;
  int32_t blocks, groups;  // blocks of a cluster or group, and how many there are
  Form form;
};

// One launch: sums, finish, coefficients (where the call has a place for them).
Plan plan_loss(int64_t rows, int64_t elements);
int launch_loss(const CudaLoss& loss);

// One launch: gradient = outer[row / draws] * coefficient[row] * m (p - y); outer is the call's loss_scale_value where
// it is null. Nothing is written if outer is the one number `ready`, for which the gradient has been written before; NaN
// is no such number.
int launch_backward(const CudaLoss& loss, const Numbers& outer, const Numbers& coefficient, double ready = NAN);

// Loss and gradient, in one launch where the device can: in thread-block clusters where samples fit into their shared
// memory, else in groups of a cooperative grid, else as the two launches above. `error` receives what went wrong while
// planning.
Plan plan_loss_and_grad(const CudaLoss& loss, int* error);
int launch_loss_and_grad(const CudaLoss& loss, const Plan& plan);

// After a launch that failed: true if the device cannot start this form, which is then not planned there again, and
// another one is left to try.
bool give_up(const CudaLoss& loss, const Plan& plan, int error);

// Pieces of the above, each in a file of its own. A plan is made where the result is true; `error` as above.
constexpr int known_devices = 64;         // whose properties are kept
constexpr int64_t cluster_draws = 8;      // most draws of a sample in a cluster
constexpr int64_t cooperative_draws = 64; // and in a group
bool plan_cluster(const CudaLoss& loss, Plan* plan, int* error);
int launch_cluster(const CudaLoss& loss, const Plan& plan);
bool plan_cooperative(const CudaLoss& loss, Plan* plan, int* error);
int launch_cooperative(const CudaLoss& loss, const Plan& plan);

// 0 if kernels of this library run on the device, else the error.
int probe_device(int32_t device);

}  // namespace tglo
