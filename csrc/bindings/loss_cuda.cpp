// Registers the CUDA implementations of the loss's operators (tglo/ops/loss.py).
#include <optional>
#include <string>
#include <tuple>

#include "bindings/cuda_call.h"
#include "bindings/loss_call.h"
#include "common/device.h"
#include "loss/cuda.h"

namespace tglo {

void check_cuda(int error, const char* what) {
  STD_TORCH_CHECK(error == 0, "tglo: ", what, ": CUDA error ", error, ", ", error_text(error));
}

namespace {

// Needed by every launch besides the call: pointers to the predictions, device and stream.
CudaLoss describe(const Rows& rows, const Mask& mask, const Tensor& policy, const Tensor& target) {
  STD_TORCH_CHECK(policy.is_cuda(), "tglo: predictions must be on a CUDA device");
  STD_TORCH_CHECK(
      !mask.data || rows.elements <= most_masked_elements, "tglo: with a mask a row has at most ", most_masked_elements,
      " elements on a GPU, not ", rows.elements, "; use backend='reference'");
  CudaLoss loss = {};
  loss.type = rows.type;
  loss.policy = policy.const_data_ptr();
  loss.target = target.const_data_ptr();
  loss.mask = mask;
  loss.rows = rows.rows;
  loss.call.elements = rows.elements;
  loss.device = policy.get_device_index();
  loss.stream = current_stream(loss.device);
  return loss;
}

// Memory for one launch; kept alive until it is queued, after which the stream's order protects it.
struct Memory {
  Tensor workspace;
  std::optional<Tensor> own_counters;  // where the stream has none

  Memory(CudaLoss& loss, const Plan& plan, const Tensor& like)
      : workspace(new_vector(like, plan.workspace, ScalarType::Double)) {
    loss.workspace = doubles(workspace);
    check_cuda(counters_of(loss.device, loss.stream, &loss.counters), "asking for the stream's counters");
    if (loss.counters) return;
    own_counters = new_vector(like, plan.counters, ScalarType::Int);
    loss.counters = static_cast<uint32_t*>(own_counters->mutable_data_ptr());
    check_cuda(zero_counters(loss.counters, plan.counters, loss.stream), "zeroing the counters");
  }
};

// The loss of an empty batch is 0.
void write_zero(const CudaLoss& loss, const Tensor& value) {
  if (value.dim() == 0)
    check_cuda(zero_counters(static_cast<uint32_t*>(value.mutable_data_ptr()), 1, loss.stream), "writing the loss");
}

std::tuple<Tensor, Tensor, Tensor> tgo_loss(TGLO_LOSS_ARGUMENTS) {
  const LossInputs inputs(TGLO_LOSS_NAMES);
  const LossOutputs outputs(inputs, policy);
  CudaLoss loss = describe(inputs.rows, inputs.mask, policy, target);
  loss.reference = reference ? reference->const_data_ptr() : nullptr;
  loss.call = outputs.call;
  if (inputs.rows.rows == 0) {
    write_zero(loss, outputs.loss);
  } else {
    const Memory memory(loss, plan_loss(loss.rows, loss.call.elements), policy);
    check_cuda(launch_loss(loss), "launching the loss");
  }
  return {outputs.loss, outputs.coefficient, outputs.statistics};
}

// 0, or the error of a form that is not tried on this device again; raises for what another form would not mend.
int loss_and_grad_in_some_form(CudaLoss& loss, const Tensor& like) {
  int error = 0;
  const Plan plan = plan_loss_and_grad(loss, &error);
  check_cuda(error, "planning loss_and_grad");
  const Memory memory(loss, plan, like);
  error = launch_loss_and_grad(loss, plan);
  if (!give_up(loss, plan, error)) check_cuda(error, "launching loss_and_grad");
  return error;
}

void note_given_up(const CudaLoss& loss, int error) {
  const std::string text =
      "tglo: GPU " + std::to_string(loss.device) + " does not start a form of loss_and_grad (CUDA error " +
      std::to_string(error) + ", " + error_text(error) + "); from now on the next one runs there, which may be slower";
  aoti_torch_warn(__func__, "csrc/bindings/loss_cuda.cpp", __LINE__, text.c_str());
}

std::tuple<Tensor, Tensor, Tensor, Tensor> tgo_loss_and_grad(TGLO_LOSS_AND_GRAD_ARGUMENTS) {
  const LossInputs inputs(TGLO_LOSS_NAMES);
  LossOutputs outputs(inputs, policy);
  outputs.set_scale(loss_scale, loss_scale_value);
  Tensor gradient = new_prediction(policy);
  inputs.rows.check(policy, gradient);
  CudaLoss loss = describe(inputs.rows, inputs.mask, policy, target);
  loss.reference = reference ? reference->const_data_ptr() : nullptr;
  loss.gradient = gradient.mutable_data_ptr();
  loss.call = outputs.call;
  if (inputs.rows.rows == 0) {
    write_zero(loss, outputs.loss);
  } else {
    while (const int error = loss_and_grad_in_some_form(loss, policy)) note_given_up(loss, error);
  }
  return {outputs.loss, outputs.coefficient, outputs.statistics, gradient};
}

Tensor tgo_loss_backward(
    const Tensor& grad_loss, const Tensor& coefficient, const Tensor& policy, const Tensor& target,
    const std::optional<Tensor>& mask, int64_t mask_inner, int64_t draws) {
  const Rows rows(policy);
  rows.check(policy, target);
  const Numbers coefficients = numbers_of(coefficient, policy, rows.rows, false, "coefficient");
  const Numbers outer = outer_of(grad_loss, policy, rows.rows, draws);
  Tensor gradient = new_prediction(policy);
  rows.check(policy, gradient);
  CudaLoss loss = describe(rows, mask_of(mask, rows, policy, mask_inner), policy, target);
  loss.gradient = gradient.mutable_data_ptr();
  loss.call.draws = draws;
  if (rows.rows)
    check_cuda(launch_backward(loss, outer, coefficients), "launching the backward");
  return gradient;
}

// The gradient was written for a grad_loss of `scale`; the device sees whether it is another, and writes it anew.
void tgo_loss_rescale(
    const Tensor& gradient, double scale, const Tensor& grad_loss, const Tensor& coefficient, const Tensor& policy,
    const Tensor& target, const std::optional<Tensor>& mask, int64_t mask_inner, int64_t draws) {
  const Rows rows(policy);
  rows.check(policy, target);
  rows.check(policy, gradient);
  const Numbers coefficients = numbers_of(coefficient, policy, rows.rows, false, "coefficient");
  const Numbers outer = numbers_of(grad_loss, policy, 1, true, "grad_loss");
  CudaLoss loss = describe(rows, mask_of(mask, rows, policy, mask_inner), policy, target);
  loss.gradient = gradient.mutable_data_ptr();
  loss.call.draws = draws;
  // One number for all rows, whatever its stride was.
  if (rows.rows)
    check_cuda(launch_backward(loss, {outer.data, 0, outer.wide}, coefficients, scale), "launching the backward");
}

// The sums of tgo_loss, so that equal predictions give equal bits.
Tensor prediction_error(
    const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& mask,
    int64_t mask_inner, bool over_elements) {
  const Rows rows(prediction);
  rows.check(prediction, target);
  Tensor error = new_vector(prediction, rows.rows, ScalarType::Double);
  if (rows.rows == 0) return error;
  const Mask weights = mask_of(mask, rows, prediction, mask_inner);
  CudaLoss loss = describe(rows, weights, prediction, target);
  loss.call = errors_call(rows, weights, over_elements, error);
  const Memory memory(loss, plan_loss(rows.rows, rows.elements), prediction);
  check_cuda(launch_loss(loss), "launching prediction_error");
  return error;
}

int64_t cuda_error(int64_t device) { return probe_device(static_cast<int32_t>(device)); }

}  // namespace
}  // namespace tglo

STABLE_TORCH_LIBRARY_IMPL(tglo, CUDA, m) {
  m.impl("tgo_loss", TORCH_BOX(&tglo::tgo_loss));
  m.impl("tgo_loss_backward", TORCH_BOX(&tglo::tgo_loss_backward));
  m.impl("tgo_loss_and_grad", TORCH_BOX(&tglo::tgo_loss_and_grad));
  m.impl("tgo_loss_rescale_", TORCH_BOX(&tglo::tgo_loss_rescale));
  m.impl("prediction_error", TORCH_BOX(&tglo::prediction_error));
}

STABLE_TORCH_LIBRARY_IMPL(tglo, CompositeExplicitAutograd, m) {
  m.impl("_cuda_error", TORCH_BOX(&tglo::cuda_error));
}
