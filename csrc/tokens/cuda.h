// The plain interface of the CUDA kernels over rows of logits. Functions return CUDA's error code.
#pragma once

#include "tokens/rows.h"

namespace tglo {

struct CudaTokens {
  TokenRows chunk;
  int32_t device;
  void* stream;
};

// One launch: log-probabilities of the chunk.
int launch_token_rows(const CudaTokens& tokens);

// One launch: the gradient of the logits, which may take their place, from that of the log-probabilities.
int launch_token_rows_gradient(
    const CudaTokens& tokens, const float* logsumexp, const float* grad, void* gradient, Element type);

}  // namespace tglo
