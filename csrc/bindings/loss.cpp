// Registers the CPU implementations of the loss's operators (tglo/ops/loss.py). The files in bindings/
// are the only ones that include torch headers, and of those only the stable ABI: one binary serves every torch of the range.
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <vector>

#include "bindings/cpu_choice.h"
#include "loss/finish.h"
#include "bindings/loss_call.h"
#include "bindings/tensors.h"

namespace tglo {

bool use_avx2() {
#ifdef TGLO_HAS_AVX2
  static const bool use = [] {
    const char* forced = std::getenv("TGLO_CPU_INSTRUCTIONS");
    if (forced && std::strcmp(forced, "baseline") == 0) return false;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
  }();
  return use;
#else
  return false;
#endif
}

namespace {

constexpr int64_t elements_per_thread = 32768;

Mask of_row(Mask mask, int64_t row) {
  if (mask.data) mask.data += row * mask.row_stride;
  return mask;
}

std::vector<PartialSums> row_sums(
    const Rows& rows, const Mask& mask, const Tensor& policy, const Tensor& target,
    const std::optional<Tensor>& reference) {
  const int64_t parts = parts_of(rows.elements), size = size_of(rows.type);
  std::vector<PartialSums> partial(static_cast<size_t>(rows.rows * parts));
  const char *p = bytes(policy), *y = bytes(target), *q = reference ? bytes(*reference) : nullptr;
  const CpuKernels& run = TGLO_CHOSEN(cpu_kernels);
  const auto sum = [&](int64_t row, int64_t index, int64_t first, int64_t count) {
    const int64_t at = (row * rows.elements + first) * size;
    partial[index] = run.sums(
        rows.type, p + at, y + at, q ? q + at : nullptr, count, of_row(mask, row), first);
  };
  for_each_part(rows.rows, rows.elements, elements_per_thread, sum);
  std::vector<PartialSums> sums(static_cast<size_t>(rows.rows));
  for (int64_t row = 0; row < rows.rows; ++row)
    for (int64_t part = 0; part < parts; ++part) {
      const PartialSums& next = partial[row * parts + part];
      sums[row].policy_error += next.policy_error;
      sums[row].error_difference += next.error_difference;
      sums[row].weight += next.weight;
    }
  return sums;
}

// gradient of row r = scale(r) m (p - y)
template <class Scale>
void write_gradient(
    const Rows& rows, const Mask& mask, const Tensor& policy, const Tensor& target, const Tensor& gradient,
    const Scale& scale) {
  rows.check(policy, gradient);
  const int64_t size = size_of(rows.type);
  const char *p = bytes(policy), *y = bytes(target);
  char* g = static_cast<char*>(gradient.mutable_data_ptr());
  const CpuKernels& run = TGLO_CHOSEN(cpu_kernels);
  for_each_part(rows.rows, rows.elements, elements_per_thread, [&](int64_t row, int64_t, int64_t first, int64_t count) {
    const int64_t at = (row * rows.elements + first) * size;
    run.gradient(rows.type, p + at, y + at, g + at, count, scale(row), of_row(mask, row), first);
  });
}

std::tuple<Tensor, Tensor, Tensor> tgo_loss(TGLO_LOSS_ARGUMENTS) {
  const LossInputs inputs(TGLO_LOSS_NAMES);
  const LossOutputs outputs(inputs, policy);
  finish_batch(outputs.call, row_sums(inputs.rows, inputs.mask, policy, target, reference).data());
  return {outputs.loss, outputs.coefficient, outputs.statistics};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> tgo_loss_and_grad(TGLO_LOSS_AND_GRAD_ARGUMENTS) {
  const LossInputs inputs(TGLO_LOSS_NAMES);
  LossOutputs outputs(inputs, policy);
  outputs.set_scale(loss_scale, loss_scale_value);
  finish_batch(outputs.call, row_sums(inputs.rows, inputs.mask, policy, target, reference).data());
  const double scale = outputs.call.scale();
  Tensor gradient = new_prediction(policy);
  write_gradient(inputs.rows, inputs.mask, policy, target, gradient, [&](int64_t row) {
    return scale * outputs.call.coefficient[row];
  });
  return {outputs.loss, outputs.coefficient, outputs.statistics, gradient};
}

Tensor tgo_loss_backward(
    const Tensor& grad_loss, const Tensor& coefficient, const Tensor& policy, const Tensor& target,
    const std::optional<Tensor>& mask, int64_t mask_inner, int64_t draws) {
  const Rows rows(policy);
  rows.check(policy, target);
  const Numbers coefficients = numbers_of(coefficient, policy, rows.rows, false, "coefficient");
  const Numbers outer = outer_of(grad_loss, policy, rows.rows, draws);
  Tensor gradient = new_prediction(policy);
  write_gradient(rows, mask_of(mask, rows, policy, mask_inner), policy, target, gradient, [&](int64_t row) {
    return outer[row / draws] * coefficients[row];
  });
  return gradient;
}

// The gradient was written for a grad_loss of `scale`: written anew if it is another.
void tgo_loss_rescale(
    const Tensor& gradient, double scale, const Tensor& grad_loss, const Tensor& coefficient, const Tensor& policy,
    const Tensor& target, const std::optional<Tensor>& mask, int64_t mask_inner,
    int64_t /*draws*/) {
  const Rows rows(policy);
  rows.check(policy, target);
  const Numbers coefficients = numbers_of(coefficient, policy, rows.rows, false, "coefficient");
  const Numbers outer = numbers_of(grad_loss, policy, 1, true, "grad_loss");
  const double factor = outer[0];
  if (factor == scale) return;
  write_gradient(rows, mask_of(mask, rows, policy, mask_inner), policy, target, gradient, [&](int64_t row) {
    return factor * coefficients[row];
  });
}

Tensor prediction_error(
    const Tensor& prediction, const Tensor& target, const std::optional<Tensor>& mask,
    int64_t mask_inner, bool over_elements) {
  const Rows rows(prediction);
  rows.check(prediction, target);
  const Mask weights = mask_of(mask, rows, prediction, mask_inner);
  const std::vector<PartialSums> sums = row_sums(rows, weights, prediction, target, std::nullopt);
  Tensor error = new_vector(prediction, rows.rows, ScalarType::Double);
  const LossCall call = errors_call(rows, weights, over_elements, error);
  for (int64_t row = 0; row < rows.rows; ++row) finish_row(call, row, sums[row], true);
  return error;
}

int64_t extension_version() { return interface_version; }

int64_t cpu_instructions() { return use_avx2() ? 1 : 0; }

// 90 stands for sm_90; nothing without CUDA kernels.
std::vector<int64_t> cuda_architectures() {
#ifdef TGLO_CUDA_ARCHITECTURES
  return {TGLO_CUDA_ARCHITECTURES};
#else
  return {};
#endif
}

}  // namespace
}  // namespace tglo

STABLE_TORCH_LIBRARY_IMPL(tglo, CPU, m) {
  m.impl("tgo_loss", TORCH_BOX(&tglo::tgo_loss));
  m.impl("tgo_loss_backward", TORCH_BOX(&tglo::tgo_loss_backward));
  m.impl("tgo_loss_and_grad", TORCH_BOX(&tglo::tgo_loss_and_grad));
  m.impl("tgo_loss_rescale_", TORCH_BOX(&tglo::tgo_loss_rescale));
  m.impl("prediction_error", TORCH_BOX(&tglo::prediction_error));
}

STABLE_TORCH_LIBRARY_IMPL(tglo, CompositeExplicitAutograd, m) {
  m.impl("_extension_version", TORCH_BOX(&tglo::extension_version));
  m.impl("_cpu_instructions", TORCH_BOX(&tglo::cpu_instructions));
  m.impl("_cuda_architectures", TORCH_BOX(&tglo::cuda_architectures));
}
