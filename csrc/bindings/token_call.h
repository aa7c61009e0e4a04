// The checked arguments of the operators over rows of logits (tglo/ops/tokens.py), for the CPU and for CUDA. Included
// by bindings/tokens*.cpp only.
#pragma once

#include "bindings/tensors.h"
#include "tokens/rows.h"

// clang-format off
#define TGLO_CHUNK_ARGUMENTS                                                                           \
  const Tensor &logits, const std::optional<Tensor> &bias, const Tensor &targets, const Tensor &order, \
  const Tensor &count, int64_t first
#define TGLO_CHUNK_NAMES logits, bias, targets, order, count, first
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

}  // namespace tglo
