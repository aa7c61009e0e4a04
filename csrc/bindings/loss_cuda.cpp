// Registers the CUDA implementations of the loss's operators (tglo/ops/loss.py).
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "bindings/cuda_call.h"
#include "bindings/loss_call.h"
#include "common/device.h"
#include "loss/cuda.h"

namespace tglo {

void check_cuda(int error, const char* what) {
  STD_TORCH_CHECK(error == 0, "tglo: ", what, ": CUDA error ", error, ", ", error_text(error));
}

Tensor arrival_counters(const Tensor& like, int64_t count, void* stream) {
  // Never destroyed: at exit CUDA may be gone before static objects are.
  static auto& kept = *new std::map<std::pair<int, void*>, Tensor>;
  static auto& mutex = *new std::mutex;
  const auto zeros = [&] {
    Tensor counters = new_vector(like, count, ScalarType::Int);
    check_cuda(
        zero_counters(static_cast<uint32_t*>(counters.mutable_data_ptr()), count, stream),
        "zeroing the arrival counters");
    return counters;
  };
  bool capturing = false;
  check_cuda(is_capturing(stream, &capturing), "asking for a stream capture");
  if (capturing) return zeros();
  const std::lock_guard<std::mutex> lock(mutex);
  const std::pair<int, void*> key(like.get_device_index(), stream);
  const auto found = kept.find(key);
  if (found != kept.end() && found->second.numel() >= count) return found->second;
  Tensor counters = zeros();
  kept.insert_or_assign(key, counters);
  return counters;
}

namespace {

// Needed by every launch besides the call: pointers to the predictions, device and stream.
CudaLoss describe(const Rows& rows, const Mask& mask, const Tensor& policy, const Tensor& target) {
  STD_TORCH_CHECK(policy.is_cuda(), "tglo: predictions must be on a CUDA device");
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
  Tensor workspace, counters;

  Memory(CudaLoss& loss, const Plan& plan, const Tensor& like)
      : workspace(new_vector(like, plan.workspace, ScalarType::Double)),
        counters(arrival_counters(like, plan.counters, loss.stream)) {
    loss.workspace = doubles(workspace);
    loss.counters = static_cast<uint32_t*>(counters.mutable_data_ptr());
  }
};

// The loss of an empty batch is 0.
void write_zero(const CudaLoss& loss, const Tensor& value) {
  if (value.dim() == 0)
    check_cuda(zero_counters(static_cast<uint32_t*>(value.mutable_data_ptr()), 1, loss.stream), "writing the loss");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tgo_loss(TGLO_LOSS_ARGUMENTS) {
  const LossInputs inputs(TGLO_LOSS_NAMES);
  LossOutputs outputs(inputs, policy);
  Tensor coefficient = new_vector(policy, inputs.rows.rows, ScalarType::Double);
  CudaLoss loss = describe(inputs.rows, inputs.mask, policy, target);
  loss.reference = reference ? reference->const_data_ptr() : nullptr;
  loss.call = outputs.call;
  loss.call.coefficient = doubles(coefficient);
  if (inputs.rows.rows == 0) {
    write_zero(loss, outputs.loss);
  } else {
    const Memory memory(loss, plan_loss(loss.rows, loss.call.elements), policy);
    check_cuda(launch_loss(loss), "launching the loss");
  }
  return {outputs.loss, outputs.implicit_score, coefficient, outputs.policy_error, outputs.reference_error};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tgo_loss_and_grad(TGLO_LOSS_AND_GRAD_ARGUMENTS) {
  const LossInputs inputs(TGLO_LOSS_NAMES);
  LossOutputs outputs(inputs, policy);
  outputs.set_scale(loss_scale, loss_scale_value);
  Tensor gradient = torch::stable::empty_like(policy);
  inputs.rows.check(policy, gradient);
  CudaLoss loss = describe(inputs.rows, inputs.mask, policy, target);
  loss.reference = reference ? reference->const_data_ptr() : nullptr;
  loss.gradient = gradient.mutable_data_ptr();
  loss.call = outputs.call;
  if (inputs.rows.rows == 0) {
    write_zero(loss, outputs.loss);
  } else {
    int error = 0;
    const Plan plan = plan_loss_and_grad(loss, &error);
    check_cuda(error, "planning loss_and_grad");
    const Memory memory(loss, plan, policy);
    check_cuda(launch_loss_and_grad(loss, plan), "launching loss_and_grad");
  }
  return {outputs.loss, outputs.implicit_score, gradient, outputs.policy_error, outputs.reference_error};
}

Tensor tgo_loss_backward(
    const Tensor& grad_loss, const Tensor& coefficient, const Tensor& policy, const Tensor& target,
    const std::optional<Tensor>& mask, int64_t mask_inner, int64_t draws) {
  const Rows rows(policy);
  rows.check(policy, target);
  const Numbers coefficients = numbers_of(coefficient, policy, rows.rows, false, "coefficient");
  const Numbers outer = outer_of(grad_loss, policy, rows.rows, draws);
  Tensor gradient = torch::stable::empty_like(policy);
  rows.check(policy, gradient);
  CudaLoss loss = describe(rows, mask_of(mask, rows, policy, mask_inner), policy, target);
  loss.gradient = gradient.mutable_data_ptr();
  loss.call.draws = draws;
  if (rows.rows)
    check_cuda(launch_backward(loss, outer, coefficients), "launching the backward");
  return gradient;
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
  m.impl("prediction_error", TORCH_BOX(&tglo::prediction_error));
}

STABLE_TORCH_LIBRARY_IMPL(tglo, CompositeExplicitAutograd, m) {
  m.impl("_cuda_error", TORCH_BOX(&tglo::cuda_error));
}
