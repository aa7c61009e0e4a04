// The plain interface of the CUDA kernels over rows of logits. Functions return CUDA's error code.
#pragma once

#include "tokens.h"

namespace tglo {

struct CudaTokens {
  TokenRows chunk;
  int32_t device;
  void* stream;
  // of the last chunk of a loss; else empty
  LossCall call;
  TokenSums sums;
  double* workspace;   // two numbers a sample
  uint32_t* counters;  // a zero; zero again after the launch
};

// One launch: log-probabilities of the chunk.
int launch_token_rows(const CudaTokens& tokens);

// The same, and the block that arrives last computes the loss from the log-probabilities of all chunks.
int launch_token_rows_loss(const CudaTokens& tokens);

// One launch: the gradient of the logits, which may take their place, from that of the log-probabilities.
int launch_token_rows_gradient(
    const CudaTokens& tokens, const float* logsumexp, const float* grad, void* gradient, Element type);

}  // namespace tglo
