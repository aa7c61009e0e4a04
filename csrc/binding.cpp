// Registers the CPU implementations of the operators that tglo/ops.py defines. The only file that includes torch
// headers, and of those only the stable ABI: one binary serves every torch of the supported range.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdlib>
#include <cstring>
#include <optional>
#include <tuple>
#include <vector>

#include "launch.h"
#include "tgo_math.h"

namespace tglo {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Elements of one part of a row: small enough to share a row between threads, large enough to hide the call.
constexpr int64_t part_elements = 16384;
constexpr int64_t elements_per_thread = 32768;

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

const CpuKernels& kernels() {
#ifdef TGLO_HAS_AVX2
  if (use_avx2()) return avx2::cpu_kernels;
#endif
  return baseline::cpu_kernels;
}

Element element_of(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::BFloat16: return Element::bfloat16;
    case ScalarType::Half: return Element::float16;
    case ScalarType::Float: return Element::float32;
    default: break;
  }
  STD_TORCH_CHECK(false, "tglo: predictions must be bfloat16, float16 or float32");
}

// True when every row is one stretch of memory without gaps or overlap, and rows follow each other.
bool rows_are_dense(const Tensor& tensor) {
  const int64_t dims = tensor.dim();
  int64_t expected = 1;
  std::vector<bool> used(static_cast<size_t>(dims), false);
  for (int64_t found = 0; found < dims; ++found) {
    int64_t next = -1;
    for (int64_t d = found + 1 < dims ? 1 : 0; d < dims; ++d)  // the first dimension comes last
      if (!used[d] && (tensor.size(d) == 1 || tensor.stride(d) == expected)) next = d;
    if (next < 0) return false;
    used[next] = true;
    expected *= tensor.size(next);
  }
  return true;
}

// The rows of tensors that share one dense layout.
struct Rows {
  Element type;
  int64_t rows, elements, parts;

  explicit Rows(const Tensor& policy) : type(element_of(policy)), rows(policy.size(0)) {
    elements = rows ? policy.numel() / rows : 0;
    parts = (elements + part_elements - 1) / part_elements;
    STD_TORCH_CHECK(
        rows == 0 || rows_are_dense(policy), "tglo: the rows of a prediction must be dense in memory");
  }

  void check(const Tensor& policy, const Tensor& other) const {
    STD_TORCH_CHECK(
        other.dim() == policy.dim() && other.scalar_type() == policy.scalar_type() && other.is_cpu(),
        "tglo: predictions must agree in dimensions, dtype and device");
    for (int64_t d = 0; d < policy.dim(); ++d)
      STD_TORCH_CHECK(other.size(d) == policy.size(d), "tglo: predictions must have one shape");
    for (int64_t d = 0; d < policy.dim(); ++d) {
      STD_TORCH_CHECK(
          rows == 0 || policy.size(d) == 1 || other.stride(d) == policy.stride(d),
          "tglo: predictions must share one memory layout");
    }
  }

  int64_t element_size() const { return type == Element::float32 ? 4 : 2; }

  // Calls body(row, part of the row, byte offset, elements) for every part, on torch's threads.
  template <class Body>
  void for_each_part(const Body& body) const {
    if (rows == 0) return;
    const int64_t shortest = elements < part_elements ? elements : part_elements;
    const int64_t grain = (elements_per_thread + shortest - 1) / shortest;
    torch::stable::parallel_for(0, rows * parts, grain, [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const int64_t row = index / parts, part = index % parts;
        const int64_t first = part * part_elements;
        const int64_t count = elements - first < part_elements ? elements - first : part_elements;
        body(row, index, (row * elements + first) * element_size(), count);
      }
    });
  }
};

const char* bytes(const Tensor& tensor) { return static_cast<const char*>(tensor.const_data_ptr()); }

Tensor new_vector(const Tensor& like, int64_t length, ScalarType type) {
  return torch::stable::new_empty(like, {length}, type);
}

double* doubles(const Tensor& tensor) { return static_cast<double*>(tensor.mutable_data_ptr()); }

// A float64 vector of known length, contiguous; null when absent.
struct Vector {
  std::optional<Tensor> tensor;
  const double* data = nullptr;
  bool scalar = false;

  Vector(const std::optional<Tensor>& given, int64_t length, bool may_be_scalar, const char* name) {
    if (!given) return;
    scalar = may_be_scalar && given->dim() == 0;
    STD_TORCH_CHECK(
        given->scalar_type() == ScalarType::Double && given->is_cpu() &&
            (scalar || (given->dim() == 1 && given->size(0) == length)),
        "tglo: ", name, " must be float64 on the CPU with ", length, " elements");
    tensor = torch::stable::contiguous(*given);
    data = static_cast<const double*>(tensor->const_data_ptr());
  }

  double at(int64_t i, double otherwise) const { return data ? data[scalar ? 0 : i] : otherwise; }
};

std::vector<PartialSums> row_sums(
    const Rows& rows, const Tensor& policy, const Tensor& target,
    const std::optional<Tensor>& reference) {
  std::vector<PartialSums> partial(static_cast<size_t>(rows.rows * rows.parts));
  const char *p = bytes(policy), *y = bytes(target), *q = reference ? bytes(*reference) : nullptr;
  const CpuKernels& run = kernels();
  rows.for_each_part([&](int64_t, int64_t index, int64_t offset, int64_t count) {
    partial[index] = run.sums(rows.type, p + offset, y + offset, q ? q + offset : nullptr, count);
  });
  std::vector<PartialSums> means(static_cast<size_t>(rows.rows));
  for (int64_t row = 0; row < rows.rows; ++row) {
    PartialSums sum = {0.0, 0.0};
    for (int64_t part = 0; part < rows.parts; ++part) {
      sum.policy_error += partial[row * rows.parts + part].policy_error;
      sum.error_difference += partial[row * rows.parts + part].error_difference;
    }
    const double elements = static_cast<double>(rows.elements);
    means[row] = {sum.policy_error / elements, sum.error_difference / elements};
  }
  return means;
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> tgo_loss(
    const Tensor& policy, const Tensor& target, const std::optional<Tensor>& reference,
    const std::optional<Tensor>& cached_error, const Tensor& scores,
    const std::optional<Tensor>& thresholds, const std::optional<Tensor>& timestep_weights,
    double threshold_value, double timestep_weight_value, double beta, double temperature,
    double confidence, int64_t draws, int64_t reduction_code) {
  const Rows rows(policy);
  rows.check(policy, target);
  if (reference) rows.check(policy, *reference);
  STD_TORCH_CHECK(
      reference.has_value() != cached_error.has_value(),
      "tglo: pass either the reference's prediction or its error");
  STD_TORCH_CHECK(draws >= 1 && rows.rows % draws == 0, "tglo: rows must be batch * draws");
  const int64_t batch = rows.rows / draws;
  const Vector cached(cached_error, rows.rows, false, "reference_error");
  const Vector score(scores, batch, false, "scores");
  const Vector threshold(thresholds, batch, true, "threshold");
  const Vector weight(timestep_weights, rows.rows, true, "timestep_weight");
  const Reduction reduction = static_cast<Reduction>(reduction_code);
  const HeadParameters parameters = {beta, temperature, confidence};

  const std::vector<PartialSums> means = row_sums(rows, policy, target, reference);

  const bool reduced = reduction != Reduction::none;
  Tensor loss = reduced ? torch::stable::new_empty(policy, {}, ScalarType::Float)
                        : new_vector(policy, batch, ScalarType::Float);
  Tensor log_ratio = new_vector(policy, batch, ScalarType::Double);
  Tensor coefficient = new_vector(policy, rows.rows, ScalarType::Double);
  Tensor policy_error = new_vector(policy, rows.rows, ScalarType::Double);
  Tensor reference_error = new_vector(policy, rows.rows, ScalarType::Double);
  float* losses = static_cast<float*>(loss.mutable_data_ptr());
  double *ratios = doubles(log_ratio), *coefficients = doubles(coefficient),
         *policy_errors = doubles(policy_error), *reference_errors = doubles(reference_error);

  const double share = reduction == Reduction::mean && batch ? 1.0 / static_cast<double>(batch) : 1.0;
  double total = 0.0;
  for (int64_t sample = 0; sample < batch; ++sample) {
    double ell = 0.0;
    for (int64_t row = sample * draws; row < (sample + 1) * draws; ++row) {
      double difference = means[row].error_difference;
      policy_errors[row] = means[row].policy_error;
      if (cached.data) {
        reference_errors[row] = cached.data[row];
        difference = means[row].policy_error - cached.data[row];
      } else {
        // A mean of squares, so not below 0, which the rounding of the two sums could make it.
        const double error = means[row].policy_error - difference;
        reference_errors[row] = error < 0.0 ? 0.0 : error;
      }
      ell += draw_log_ratio(difference, weight.at(row, timestep_weight_value), temperature);
    }
    const double scaled = beta * (ell / static_cast<double>(draws));
    const SampleLoss result =
        sample_loss(scaled, score.data[sample], threshold.at(sample, threshold_value), confidence);
    ratios[sample] = scaled;
    total += result.loss;
    if (!reduced) losses[sample] = static_cast<float>(result.loss);
    for (int64_t row = sample * draws; row < (sample + 1) * draws; ++row)
      coefficients[row] =
          share * prediction_coefficient(
                      result.slope, weight.at(row, timestep_weight_value), parameters, draws,
                      rows.elements);
  }
  if (reduced) *losses = static_cast<float>(total * share);
  return {loss, log_ratio, coefficient, policy_error, reference_error};
}

Tensor tgo_loss_backward(
    const Tensor& grad_loss, const Tensor& coefficient, const Tensor& policy, const Tensor& target,
    int64_t draws) {
  const Rows rows(policy);
  rows.check(policy, target);
  const Vector coefficients(coefficient, rows.rows, false, "coefficient");
  const bool scalar = grad_loss.dim() == 0;
  STD_TORCH_CHECK(
      grad_loss.scalar_type() == ScalarType::Float && grad_loss.is_cpu() && draws >= 1 &&
          (scalar || (grad_loss.dim() == 1 && grad_loss.size(0) * draws == rows.rows)),
      "tglo: grad_loss must be float32 on the CPU, one number or one per sample");
  const int64_t stride = scalar ? 0 : grad_loss.stride(0);
  const float* outer = static_cast<const float*>(grad_loss.const_data_ptr());

  Tensor gradient = torch::stable::empty_like(policy);
  rows.check(policy, gradient);
  const char *p = bytes(policy), *y = bytes(target);
  char* g = static_cast<char*>(gradient.mutable_data_ptr());
  const CpuKernels& run = kernels();
  rows.for_each_part([&](int64_t row, int64_t, int64_t offset, int64_t count) {
    const double scale = outer[(row / draws) * stride] * coefficients.data[row];
    run.gradient(rows.type, p + offset, y + offset, g + offset, count, scale);
  });
  return gradient;
}

Tensor prediction_error(const Tensor& prediction, const Tensor& target) {
  const Rows rows(prediction);
  rows.check(prediction, target);
  const std::vector<PartialSums> means = row_sums(rows, prediction, target, std::nullopt);
  Tensor error = new_vector(prediction, rows.rows, ScalarType::Double);
  double* errors = doubles(error);
  for (int64_t row = 0; row < rows.rows; ++row) errors[row] = means[row].policy_error;
  return error;
}

int64_t extension_version() { return interface_version; }

int64_t cpu_instructions() { return use_avx2() ? 1 : 0; }

}  // namespace
}  // namespace tglo

STABLE_TORCH_LIBRARY_IMPL(tglo, CPU, m) {
  m.impl("tgo_loss", TORCH_BOX(&tglo::tgo_loss));
  m.impl("tgo_loss_backward", TORCH_BOX(&tglo::tgo_loss_backward));
  m.impl("prediction_error", TORCH_BOX(&tglo::prediction_error));
}

STABLE_TORCH_LIBRARY_IMPL(tglo, CompositeExplicitAutograd, m) {
  m.impl("_extension_version", TORCH_BOX(&tglo::extension_version));
  m.impl("_cpu_instructions", TORCH_BOX(&tglo::cpu_instructions));
}
