// One sample's finish where a kernel goes on to write the gradient: used by the cluster and the cooperative kernel.
#pragma once

#include "loss/rows.cuh"

namespace tglo {

constexpr int64_t smallest_slice = 2048;  // elements that are worth a block

// Elements of a row that one of its blocks works on, a multiple of a vector.
inline int64_t slice_of(int64_t elements, int blocks) {
  const int64_t vectors = (elements + vector_length - 1) / vector_length;
  return (vectors + blocks - 1) / blocks * vector_length;
}

// One sample's draws: ell and the sum of the mask's weights.
template <int64_t most>
struct DrawWorkings {
  double ells[most], weights[most];
};
using SampleWorkings = DrawWorkings<cluster_draws>;

// The factors of m (p - y) in the gradient, loss_scale included, of one sample; by one thread. `losses` is null in the
// blocks that do not write the sample's results.
template <class Workings>
__device__ inline void sample_coefficients(
    const LossCall& call, int64_t sample, const Workings& workings, float* coefficients, double* losses) {
  double ell = 0.0;
  for (int64_t draw = 0; draw < call.draws; ++draw) ell += workings.ells[draw];
  const SampleLoss result = finish_sample(call, sample, ell, losses != nullptr);
  if (losses) losses[sample] = result.loss;
  const double scale = call.scale();
#pragma unroll 1  // one thread's work, at most a few draws
  for (int64_t draw = 0; draw < call.draws; ++draw) {
    const int64_t row = sample * call.draws + draw;
    const double coefficient = row_coefficient(call, row, result.slope, workings.weights[draw]);
    if (losses && call.coefficient) call.coefficient[row] = coefficient;
    coefficients[draw] = static_cast<float>(scale * coefficient);
  }
}

}  // namespace tglo
