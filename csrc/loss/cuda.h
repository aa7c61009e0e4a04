// The plain interface of the CUDA kernels of the loss: no torch types, no CUDA types. Functions return CUDA's error code.
#pragma once

#include "loss/finish.h"

namespace tglo {

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

struct Plan {
  int64_t workspace;  // doubles
  int64_t counters;
  int32_t blocks, groups;  // blocks of a cluster or group, and how many there are
  bool cluster;
};

// One launch: sums, finish, coefficients (where the call has a place for them).
Plan plan_loss(int64_t rows, int64_t elements);
int launch_loss(const CudaLoss& loss);

// One launch: gradient = outer[row / draws] * coefficient[row] * m (p - y).
int launch_backward(const CudaLoss& loss, const Numbers& outer, const Numbers& coefficient);

// One launch: loss and gradient, in thread-block clusters where samples fit into their shared memory, else in groups of
// a cooperative grid. `error` receives what went wrong while planning.
Plan plan_loss_and_grad(const CudaLoss& loss, int* error);
int launch_loss_and_grad(const CudaLoss& loss, const Plan& plan);

// Pieces of the above, each in a file of its own.
constexpr int64_t cluster_draws = 8;  // most draws of a sample in a cluster
bool plan_cluster(const CudaLoss& loss, Plan* plan, int* error);
int launch_cluster(const CudaLoss& loss, const Plan& plan);
Plan plan_cooperative(const CudaLoss& loss, int* error);
int launch_cooperative(const CudaLoss& loss, const Plan& plan);

// 0 if kernels of this library run on the device, else the error.
int probe_device(int32_t device);

}  // namespace tglo
