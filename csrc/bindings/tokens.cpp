// Registers the CPU implementations of the operators over rows of logits (tglo/ops/tokens.py).
#include "bindings/cpu_choice.h"
#include "bindings/token_call.h"

namespace tglo {
namespace {

constexpr int64_t logits_per_thread = 32768;

// Calls body(row, position) for the rows that stand for a position and other(row) for the rest, on torch's threads.
template <class Body, class Other>
void for_each_row(const TokenRows& chunk, const Body& body, const Other& other) {
  if (chunk.rows == 0) return;
  const int64_t grain = (logits_per_thread + chunk.vocabulary - 1) / chunk.vocabulary;
  const int64_t count = *chunk.count - chunk.first;
  torch::stable::parallel_for(0, chunk.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      row < count ? body(row, chunk.order[chunk.first + row]) : other(row);
  });
}

void token_rows(TGLO_CHUNK_ARGUMENTS, const Tensor& log_prob, const Tensor& logsumexp) {
  TokenRows chunk = token_rows_of(TGLO_CHUNK_NAMES);
  set_outputs(chunk, targets, log_prob, logsumexp);
  const CpuTokenKernels& run = TGLO_CHOSEN(cpu_token_kernels);
  const auto body = [&](int64_t row, int64_t position) {
    const TokenRow result = run.log_prob(
        chunk.logits + row * chunk.vocabulary, chunk.bias, chunk.vocabulary, chunk.targets[position]);
    chunk.log_prob[position] = result.log_prob;
    chunk.logsumexp[position] = result.logsumexp;
  };
  for_each_row(chunk, body, [](int64_t) {});
}

void token_rows_gradient(
    TGLO_CHUNK_ARGUMENTS, const Tensor& logsumexp, const Tensor& grad, const Tensor& gradient) {
  const TokenRows chunk = token_rows_of(TGLO_CHUNK_NAMES);
  const int64_t positions = targets.numel();
  const float* lse = vector_of<float>(logits, logsumexp, positions, ScalarType::Float, "logsumexp", "float32");
  const float* scale = vector_of<float>(logits, grad, positions, ScalarType::Float, "grad", "float32");
  float* out = vector_of<float>(logits, gradient, logits.numel(), ScalarType::Float, "gradient", "float32");
  const CpuTokenKernels& run = TGLO_CHOSEN(cpu_token_kernels);
  const auto body = [&](int64_t row, int64_t position) {
    const int64_t at = row * chunk.vocabulary;
    run.gradient(
        chunk.logits + at, chunk.bias, out + at, chunk.vocabulary, chunk.targets[position], lse[position],
        scale[position]);
  };
  for_each_row(chunk, body, [&](int64_t row) {
    for (int64_t i = 0; i < chunk.vocabulary; ++i) out[row * chunk.vocabulary + i] = 0.0f;
  });
}

}  // namespace
}  // namespace tglo

STABLE_TORCH_LIBRARY_IMPL(tglo, CPU, m) {
  m.impl("token_rows", TORCH_BOX(&tglo::token_rows));
  m.impl("token_rows_gradient", TORCH_BOX(&tglo::token_rows_gradient));
}
