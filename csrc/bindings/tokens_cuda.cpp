// Registers the CUDA implementations of the operators over rows of logits (tglo/ops/tokens.py).
#include "bindings/cuda_call.h"
#include "bindings/token_call.h"
#include "tokens/cuda.h"

namespace tglo {
namespace {

CudaTokens describe(TGLO_CHUNK_ARGUMENTS) {
  STD_TORCH_CHECK(logits.is_cuda(), "tglo: logits must be on a CUDA device");
  CudaTokens tokens = {};
  tokens.chunk = token_rows_of(TGLO_CHUNK_NAMES);
  tokens.device = logits.get_device_index();
  tokens.stream = current_stream(tokens.device);
  return tokens;
}

void token_rows(TGLO_CHUNK_ARGUMENTS, const Tensor& log_prob, const Tensor& logsumexp) {
  CudaTokens tokens = describe(TGLO_CHUNK_NAMES);
  set_outputs(tokens.chunk, targets, log_prob, logsumexp);
  check_cuda(launch_token_rows(tokens), "launching token_rows");
}

void token_rows_gradient(
    TGLO_CHUNK_ARGUMENTS, const Tensor& logsumexp, const Tensor& grad, const Tensor& gradient) {
  const CudaTokens tokens = describe(TGLO_CHUNK_NAMES);
  const int64_t positions = targets.numel();
  const Element type = element_of(gradient);
  void* out = vector_of<void>(
      logits, gradient, logits.numel(), gradient.scalar_type(), "gradient", "of one of the kernels' dtypes,");
  check_cuda(
      launch_token_rows_gradient(
          tokens, vector_of<float>(logits, logsumexp, positions, ScalarType::Float, "logsumexp", "float32"),
          vector_of<float>(logits, grad, positions, ScalarType::Float, "grad", "float32"), out, type),
      "launching token_rows_gradient");
}

}  // namespace
}  // namespace tglo

STABLE_TORCH_LIBRARY_IMPL(tglo, CUDA, m) {
  m.impl("token_rows", TORCH_BOX(&tglo::token_rows));
  m.impl("token_rows_gradient", TORCH_BOX(&tglo::token_rows_gradient));
}
