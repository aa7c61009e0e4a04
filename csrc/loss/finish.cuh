// The finish of the loss by one block, which has seen that every row's sums are in memory.
#pragma once

#include "loss/rows.cuh"

namespace tglo {

// sum_of(row), called by a whole warp, gives a row's sums in its first lane; `workspace` has two numbers a row.
template <int threads, class SumOf>
__device__ inline void finish_rows(
    const LossCall& call, int64_t rows, double* workspace, double* scratch, const SumOf& sum_of) {
  double *ells = workspace, *weights = workspace + rows;
  const int lane = threadIdx.x % threads_per_warp, warp = threadIdx.x / threads_per_warp;
  for (int64_t row = warp; row < rows; row += threads / threads_per_warp) {
    const PartialSums sum = sum_of(row);
    if (lane == 0) {
      ells[row] = finish_row(call, row, sum, true);
      weights[row] = sum.weight;
    }
  }
  if (!call.loss) return;  // only the errors are asked for
  __syncthreads();
  double total = 0.0;
  for (int64_t sample = threadIdx.x; sample < call.batch; sample += threads) {
    const int64_t first = sample * call.draws;
    double ell = 0.0;
    for (int64_t row = first; row < first + call.draws; ++row) ell += ells[row];
    const SampleLoss result = finish_sample(call, sample, ell, true);
    total += result.loss;
    if (call.coefficient)
      for (int64_t row = first; row < first + call.draws; ++row)
        call.coefficient[row] = row_coefficient(call, row, result.slope, weights[row]);
  }
  total = block_sum<threads>(total, scratch);
  if (threadIdx.x == 0 && call.reduction != Reduction::none) *call.loss = static_cast<float>(total * call.share());
}

}  // namespace tglo
