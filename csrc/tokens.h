// The plain interface of the kernels over rows of logits: no torch types, no CUDA types.
#pragma once

#include "head.h"

namespace tglo {

// A chunk of logits, (rows, vocabulary) float32; row i is position order[first + i] of the (batch, tokens) positions.
// Rows from *count on stand for no position: nothing is written for them, and their gradient is 0.
struct TokenRows {
  const float* logits;
  const float* bias;  // [vocabulary], or null
  const int64_t *targets, *order, *count;
  int64_t first, rows, vocabulary;
  float *log_prob, *logsumexp;  // [batch * tokens]
};

// What the head of the loss reads besides: a row of its LossCall is a sample.
struct TokenSums {
  const float* log_prob;       // [batch, tokens]
  const bool* mask;            // [batch, tokens]
  Numbers reference_log_prob;  // [batch * tokens], none with a cached error

  // One token's share of its sample's sums.
  TGLO_HOST_DEVICE void add(PartialSums& sum, int64_t position, float log_prob_there) const {
    if (!mask[position]) return;
    const double own = log_prob_there;
    sum.policy_error -= own;
    if (reference_log_prob.data) sum.error_difference += reference_log_prob[position] - own;
    sum.weight += 1.0;
  }
};

}  // namespace tglo
