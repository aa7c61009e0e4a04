// From the sums of parts of rows to loss, statistics and coefficients: the part of the loss that is of batch size.
// One source for the CPU and every CUDA kernel; formulas are those of formulas.h.
#pragma once

#include "loss/formulas.h"
#include "loss/rows.h"

namespace tglo {

// The inputs and outputs of one call of the loss. Pointers are to the device's memory.
struct LossCall {
  // inputs
  Numbers cached_error;     // [rows], none with a reference prediction
  Numbers scores;           // [batch]
  Numbers threshold;        // none: threshold_value
  Numbers timestep_weight;  // likewise
  Numbers sample_weight;    // [batch], likewise
  Numbers loss_scale;       // of the gradient; none: loss_scale_value
  double threshold_value, timestep_weight_value, sample_weight_value, loss_scale_value;
  LossParameters parameters;
  int64_t batch, draws, elements;
  Reduction reduction;
  bool mean_over_mask;  // a row's mean divides by the mask's sum, else by the number of elements
  // outputs
  float* loss;          // [1], or [batch] without reduction
  double* implicit_score;   // [batch]
  double* coefficient;  // [rows]; null where nobody asks for it
  double* policy_error;     // [rows]
  double* reference_error;  // [rows]; null where only the policy's error is asked for

  TGLO_HOST_DEVICE double omega(int64_t row) const {
    return timestep_weight.data ? timestep_weight[row] : timestep_weight_value;
  }

  TGLO_HOST_DEVICE double weight(int64_t sample) const {
    return sample_weight.data ? sample_weight[sample] : sample_weight_value;
  }

  TGLO_HOST_DEVICE double scale() const {
    return loss_scale.data ? loss_scale[0] : loss_scale_value;
  }

  // 1 / batch for the mean.
  TGLO_HOST_DEVICE double share() const {
    return reduction == Reduction::mean && batch ? 1.0 / static_cast<double>(batch) : 1.0;
  }
};

// One row's statistics: writes its errors, returns its share of ell.
TGLO_HOST_DEVICE inline double finish_row(
    const LossCall& call, int64_t row, const PartialSums& sum, bool write) {
  const double count = call.mean_over_mask ? sum.weight : static_cast<double>(call.elements);
  const double scale = count == 0.0 ? 0.0 : 1.0 / count;  // a NaN stays one: it is how bad weights show
  const double policy_error = sum.policy_error * scale;
  double difference = sum.error_difference * scale, reference_error;
  if (call.cached_error.data) {
    reference_error = call.cached_error[row];
    difference = count == 0.0 ? 0.0 : policy_error - reference_error;
  } else {
    // A mean of squares: not below 0, which the rounding of the two sums could make it.
    reference_error = policy_error - difference;
    reference_error = reference_error < 0.0 ? 0.0 : reference_error;
  }
  if (write) {
    call.policy_error[row] = policy_error;
    if (call.reference_error) call.reference_error[row] = reference_error;
  }
  return draw_log_ratio(difference, call.omega(row), call.parameters.temperature);
}

// One sample from its ell: writes r, returns loss and slope.
TGLO_HOST_DEVICE inline SampleLoss finish_sample(
    const LossCall& call, int64_t sample, double ell, bool write) {
  const double scaled = call.parameters.beta * (ell / static_cast<double>(call.draws));
  const double threshold = call.threshold.data ? call.threshold[sample] : call.threshold_value;
  const SampleLoss result =
      sample_loss(scaled, call.scores[sample], threshold, call.parameters.confidence, call.weight(sample));
  if (write) call.implicit_score[sample] = scaled;
  if (write && call.reduction == Reduction::none) call.loss[sample] = static_cast<float>(result.loss);
  return result;
}

// coeff with d loss / d p = coeff m (p - y) for one row, the reduction's share included.
TGLO_HOST_DEVICE inline double row_coefficient(
    const LossCall& call, int64_t row, double slope, double weight) {
  const double count = call.mean_over_mask ? weight : static_cast<double>(call.elements);
  if (count == 0.0) return 0.0;
  return call.share() * prediction_coefficient(slope, call.omega(row), call.parameters, call.draws, count);
}

// The same for a whole batch on the CPU, coefficients included, from one sum a row.
inline void finish_batch(const LossCall& call, const PartialSums* sums) {
  double total = 0.0;
  for (int64_t sample = 0; sample < call.batch; ++sample) {
    const int64_t first = sample * call.draws;
    double ell = 0.0;
    for (int64_t row = first; row < first + call.draws; ++row)
      ell += finish_row(call, row, sums[row], true);
    const SampleLoss result = finish_sample(call, sample, ell, true);
    total += result.loss;
    for (int64_t row = first; row < first + call.draws; ++row)
      call.coefficient[row] = row_coefficient(call, row, result.slope, sums[row].weight);
  }
  if (call.reduction != Reduction::none) *call.loss = static_cast<float>(total * call.share());
}

}  // namespace tglo
