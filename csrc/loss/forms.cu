// Loss and gradient at once: which form runs on a device, and what is left where one does not start.
#include <atomic>

#include "common/device.cuh"
#include "loss/cuda.h"

namespace tglo {
namespace {

std::atomic<bool> given_up[known_devices][2];  // of the forms before the last

std::atomic<bool>* mark_of(int32_t device, Form form) {
  if (device < 0 || device >= known_devices || form == Form::two_launches) return nullptr;
  return &given_up[device][static_cast<int>(form)];
}

bool may_plan(int32_t device, Form form) {
  const std::atomic<bool>* mark = mark_of(device, form);
  return mark && !*mark;
}

// The loss of tglo::tgo_loss with its coefficients at the workspace's end, then the backward with the loss's scale.
Plan plan_two_launches(const CudaLoss& loss) {
  Plan plan = plan_loss(loss.rows, loss.call.elements);
  plan.workspace += loss.rows;
  return plan;
}

int launch_two(CudaLoss loss) {
  if (!loss.call.coefficient)
    loss.call.coefficient = loss.workspace + plan_loss(loss.rows, loss.call.elements).workspace;
  const int error = launch_loss(loss);
  if (error != cudaSuccess) return error;
  const Numbers scale = {loss.call.loss_scale.data, 0, loss.call.loss_scale.wide};
  return launch_backward(loss, scale, {loss.call.coefficient, 1, true});
}

// What a launch says of itself, not of the work before it: of its size, its shared memory, or what it asks for.
bool does_not_start(int error) {
  switch (error) {
    case cudaErrorInvalidValue:
    case cudaErrorInvalidConfiguration:
    case cudaErrorLaunchOutOfResources:
    case cudaErrorCooperativeLaunchTooLarge:
    case cudaErrorNotPermitted:
    case cudaErrorNotSupported:
    case cudaErrorInvalidClusterSize: return true;
    default: return false;
  }
}

}  // namespace

Plan plan_loss_and_grad(const CudaLoss& loss, int* error) {
  Plan plan = {};
  *error = cudaSuccess;
  if (may_plan(loss.device, Form::cluster) && plan_cluster(loss, &plan, error)) return plan;
  if (*error == cudaSuccess && may_plan(loss.device, Form::cooperative) && plan_cooperative(loss, &plan, error))
    return plan;
  return plan_two_launches(loss);
}

int launch_loss_and_grad(const CudaLoss& loss, const Plan& plan) {
  switch (plan.form) {
    case Form::cluster: return launch_cluster(loss, plan);
    case Form::cooperative: return launch_cooperative(loss, plan);
    case Form::two_launches: return launch_two(loss);
  }
  return cudaErrorInvalidValue;
}

bool give_up(const CudaLoss& loss, const Plan& plan, int error) {
  std::atomic<bool>* mark = mark_of(loss.device, plan.form);
  if (!mark || !does_not_start(error)) return false;
  *mark = true;
  return true;
}

}  // namespace tglo
