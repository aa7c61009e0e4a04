// The plain interface of the kernels over rows of logits: no torch types, no CUDA types.
#pragma once

#include "common/launch.h"

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

// The result of one row of logits, bias included.
struct TokenRow {
  float log_prob;   // of the true token; NaN if that is not in the vocabulary
  float logsumexp;
};

struct CpuTokenKernels {
  // `bias` may be null.
  TokenRow (*log_prob)(const float* logits, const float* bias, int64_t vocabulary, int64_t token);
  // gradient[v] = scale ([v == token] - exp(logits[v] + bias[v] - logsumexp)); it may be logits itself.
  void (*gradient)(
      const float* logits, const float* bias, float* gradient, int64_t vocabulary, int64_t token,
      float logsumexp, float scale);
};

TGLO_FOR_EACH_INSTRUCTION_SET(extern const CpuTokenKernels cpu_token_kernels;)

}  // namespace tglo
