// From an operator's arguments to a LossCall, for the CPU's and the GPU's binding alike.
#pragma once

#include "loss/finish.h"
#include "bindings/tensors.h"

// clang-format off
// The arguments of tglo::tgo_loss and tglo::tgo_loss_and_grad in the order of tglo/ops/loss.py.
#define TGLO_LOSS_TENSORS                                                                              \
  const Tensor &policy, const Tensor &target, const std::optional<Tensor> &reference,                  \
  const std::optional<Tensor> &cached_error, const Tensor &scores,                                     \
  const std::optional<Tensor> &threshold, const std::optional<Tensor> &timestep_weight,                \
  const std::optional<Tensor> &sample_weight, const std::optional<Tensor> &mask
#define TGLO_LOSS_NUMBERS                                                                              \
  int64_t mask_inner, bool over_elements, double threshold_value, double timestep_weight_value,         \
  double sample_weight_value, double beta, double temperature, double confidence, int64_t draws,       \
  int64_t reduction
#define TGLO_LOSS_ARGUMENTS TGLO_LOSS_TENSORS, TGLO_LOSS_NUMBERS
#define TGLO_LOSS_AND_GRAD_ARGUMENTS                                                                   \
  TGLO_LOSS_TENSORS, const std::optional<Tensor> &loss_scale, double loss_scale_value, TGLO_LOSS_NUMBERS
#define TGLO_LOSS_NAMES                                                                                \
  policy, target, reference, cached_error, scores, threshold, timestep_weight, sample_weight, mask,    \
  mask_inner, over_elements, threshold_value, timestep_weight_value, sample_weight_value, beta,        \
  temperature, confidence, draws, reduction
// clang-format on

namespace tglo {

// The checked arguments; `call` lacks its outputs.
struct LossInputs {
  Rows rows;
  Mask mask;
  LossCall call = {};

  explicit LossInputs(
      const Tensor& policy, const Tensor& target, const std::optional<Tensor>& reference,
      const std::optional<Tensor>& cached_error, const Tensor& scores,
      const std::optional<Tensor>& threshold, const std::optional<Tensor>& timestep_weight,
      const std::optional<Tensor>& sample_weight, const std::optional<Tensor>& weights, TGLO_LOSS_NUMBERS)
      : rows(policy), mask(mask_of(weights, rows, policy, mask_inner)) {
    rows.check(policy, target);
    if (reference) rows.check(policy, *reference);
    STD_TORCH_CHECK(
        reference.has_value() != cached_error.has_value(),
        "tglo: pass either the reference's prediction or its error");
    STD_TORCH_CHECK(draws >= 1 && rows.rows % draws == 0, "tglo: rows must be batch * draws");
    call.batch = rows.rows / draws;
    call.cached_error = numbers_of(cached_error, policy, rows.rows, false, "reference_error");
    call.scores = numbers_of(scores, policy, call.batch, false, "scores");
    call.threshold = numbers_of(threshold, policy, call.batch, true, "threshold");
    call.timestep_weight = numbers_of(timestep_weight, policy, rows.rows, true, "timestep_weight");
    call.sample_weight = numbers_of(sample_weight, policy, call.batch, true, "sample_weight");
    call.threshold_value = threshold_value;
    call.timestep_weight_value = timestep_weight_value;
    call.sample_weight_value = sample_weight_value;
    call.loss_scale_value = 1.0;
    call.parameters = {beta, temperature, confidence};
    call.draws = draws;
    call.elements = rows.elements;
    call.reduction = static_cast<Reduction>(reduction);
    call.mean_over_mask = mask.data != nullptr && !over_elements;
  }
};

// The results that every form of the loss has. One tensor holds what is seldom looked at: implicit_score [batch],
// policy_error [rows] and reference_error [rows], one after the other.
struct LossOutputs {
  LossCall call;
  Tensor loss, coefficient, statistics;

  LossOutputs(const LossInputs& inputs, const Tensor& policy)
      : call(inputs.call),
        loss(
            call.reduction == Reduction::none
                ? new_vector(policy, call.batch, ScalarType::Float)
                : new_tensor(policy, 0, 1, ScalarType::Float)),
        coefficient(new_vector(policy, inputs.rows.rows, ScalarType::Double)),
        statistics(new_vector(policy, call.batch + 2 * inputs.rows.rows, ScalarType::Double)) {
    call.loss = static_cast<float*>(loss.mutable_data_ptr());
    call.coefficient = doubles(coefficient);
    call.implicit_score = doubles(statistics);
    call.policy_error = call.implicit_score + call.batch;
    call.reference_error = call.policy_error + inputs.rows.rows;
  }

  void set_scale(const std::optional<Tensor>& scale, double value) {
    call.loss_scale = numbers_of(scale, loss, 1, true, "loss_scale");
    call.loss_scale_value = value;
  }
};

// A call that asks for the policy's errors alone: finish_row writes them to `error`, and there is no finish.
inline LossCall errors_call(const Rows& rows, const Mask& mask, bool over_elements, const Tensor& error) {
  LossCall call = {};
  call.batch = rows.rows;
  call.draws = 1;
  call.elements = rows.elements;
  call.mean_over_mask = mask.data != nullptr && !over_elements;
  call.policy_error = doubles(error);
  return call;
}

// The gradient that reaches the loss: one number or one per sample.
inline Numbers outer_of(const Tensor& grad_loss, const Tensor& policy, int64_t rows, int64_t draws) {
  STD_TORCH_CHECK(draws >= 1 && rows % draws == 0, "tglo: rows must be batch * draws");
  return numbers_of(grad_loss, policy, rows / draws, true, "grad_loss");
}

}  // namespace tglo
