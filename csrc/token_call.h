// The checked arguments of the operators over rows of logits (tglo/ops/token_schemas.py), for the CPU and for CUDA. Included
// by binding_tokens*.cpp only.
#pragma once

#include "tensors.h"
#include "tokens.h"

// clang-format off
#define TGLO_CHUNK_ARGUMENTS                                                                           \
  const Tensor &logits, const std::optional<Tensor> &bias, const Tensor &targets, const Tensor &order, \
  const Tensor &count, int64_t first
#define TGLO_CHUNK_NAMES logits, bias, targets, order, count, first
#define TGLO_TOKEN_LOSS_ARGUMENTS                                                                      \
  const Tensor &mask, const std::optional<Tensor> &reference_log_prob,                                 \
  const std::optional<Tensor> &reference_error, const Tensor &scores,                                  \
  const std::optional<Tensor> &threshold, double threshold_value, double beta, double temperature,     \
  double confidence, int64_t reduction
#define TGLO_TOKEN_LOSS_NAMES                                                                          \
  mask, reference_log_prob, reference_error, scores, threshold, threshold_value, beta, temperature,    \
  confidence, reduction
// clang-format on

namespace tglo {

template <class T>
T* vector_of(
    const Tensor& like, const Tensor& vector, int64_t length, ScalarType dtype, const char* name, const char* kind) {
  STD_TORCH_CHECK(
      vector.scalar_type() == dtype && vector.numel() == length && vector.is_contiguous() &&
          same_device(vector, like),
      "tglo: ", name, " must be contiguous ", kind, " of ", length, " elements on the logits' device");
  return static_cast<T*>(vector.mutable_data_ptr());
}

// The chunk without its outputs.
inline TokenRows token_rows_of(TGLO_CHUNK_ARGUMENTS) {
  STD_TORCH_CHECK(
      logits.dim() == 2 && logits.scalar_type() == ScalarType::Float && logits.is_contiguous(),
      "tglo: logits must be contiguous float32 of shape (rows, vocabulary)");
  const int64_t rows = logits.size(0), vocabulary = logits.size(1), positions = targets.numel();
  STD_TORCH_CHECK(
      vocabulary >= 1 && first >= 0 && first + rows <= order.numel() && order.numel() <= positions,
      "tglo: rows from ", first, " to ", first + rows, " of ", order.numel(), " among ", positions, " positions");
  return {
      static_cast<const float*>(logits.const_data_ptr()),
      bias ? vector_of<float>(logits, *bias, vocabulary, ScalarType::Float, "bias", "float32") : nullptr,
      vector_of<int64_t>(logits, targets, positions, ScalarType::Long, "targets", "int64"),
      vector_of<int64_t>(logits, order, order.numel(), ScalarType::Long, "order", "int64"),
      vector_of<int64_t>(logits, count, 1, ScalarType::Long, "count", "int64"),
      first, rows, vocabulary, nullptr, nullptr};
}

inline void set_outputs(TokenRows& chunk, const Tensor& targets, const Tensor& log_prob, const Tensor& logsumexp) {
  const int64_t positions = targets.numel();
  chunk.log_prob = vector_of<float>(targets, log_prob, positions, ScalarType::Float, "log_prob", "float32");
  chunk.logsumexp = vector_of<float>(targets, logsumexp, positions, ScalarType::Float, "logsumexp", "float32");
}

// The head's arguments and results.
struct TokenLoss {
  LossCall call = {};
  TokenSums sums;
  Tensor loss, log_ratio, coefficient, policy_error, reference_error_out;

  TokenLoss(const Tensor& log_prob, TGLO_TOKEN_LOSS_ARGUMENTS)
      : loss(
            static_cast<Reduction>(reduction) == Reduction::none
                ? new_vector(log_prob, mask.size(0), ScalarType::Float)
                : new_tensor(log_prob, 0, 1, ScalarType::Float)),
        log_ratio(new_vector(log_prob, mask.size(0), ScalarType::Double)),
        coefficient(new_vector(log_prob, mask.size(0), ScalarType::Double)),
        policy_error(new_vector(log_prob, mask.size(0), ScalarType::Double)),
        reference_error_out(new_vector(log_prob, mask.size(0), ScalarType::Double)) {
    STD_TORCH_CHECK(mask.dim() == 2, "tglo: mask must be of shape (batch, tokens)");
    STD_TORCH_CHECK(
        reference_log_prob.has_value() != reference_error.has_value(),
        "tglo: pass either the reference's log-probabilities or its error");
    call.batch = mask.size(0);
    call.elements = mask.size(1);
    call.draws = 1;
    call.masked = call.tokens = true;
    call.cached_error = numbers_of(reference_error, log_prob, call.batch, false, "reference_error");
    call.scores = numbers_of(scores, log_prob, call.batch, false, "scores");
    call.threshold = numbers_of(threshold, log_prob, call.batch, true, "threshold");
    call.timestep_weight = call.loss_scale = {nullptr, 0, true};
    call.threshold_value = threshold_value;
    call.timestep_weight_value = call.loss_scale_value = 1.0;
    call.parameters = {beta, temperature, confidence};
    call.reduction = static_cast<Reduction>(reduction);
    call.loss = static_cast<float*>(loss.mutable_data_ptr());
    call.log_ratio = doubles(log_ratio);
    call.coefficient = doubles(coefficient);
    call.policy_error = doubles(policy_error);
    call.reference_error = doubles(reference_error_out);
    sums.log_prob = static_cast<const float*>(log_prob.const_data_ptr());
    sums.mask = vector_of<bool>(log_prob, mask, log_prob.numel(), ScalarType::Bool, "mask", "bool");
    sums.reference_log_prob = {nullptr, 0, true};
    if (reference_log_prob) {
      const ScalarType dtype = reference_log_prob->scalar_type();
      STD_TORCH_CHECK(
          (dtype == ScalarType::Float || dtype == ScalarType::Double) && reference_log_prob->is_contiguous() &&
              reference_log_prob->numel() == log_prob.numel() && same_device(*reference_log_prob, log_prob),
          "tglo: reference_log_prob must be contiguous float32 or float64 of shape (batch, tokens)");
      sums.reference_log_prob = {reference_log_prob->const_data_ptr(), 1, dtype == ScalarType::Double};
    }
  }

  std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> results() const {
    return {loss, log_ratio, coefficient, policy_error, reference_error_out};
  }
};

}  // namespace tglo
