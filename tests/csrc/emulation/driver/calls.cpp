#include "calls.h"

#include <cuda_runtime.h>
#include <string.h>

namespace driver {
namespace {

tglo::Numbers numbers(const std::vector<double>& values) { return {values.data(), values.size() > 1 ? 1 : 0, true}; }
tglo::Numbers numbers(const std::vector<float>& values) { return {values.data(), values.size() > 1 ? 1 : 0, false}; }

tglo::Mask mask_of(const Inputs& inputs) {
  if (!inputs.problem.masked) return {};
  return {inputs.mask.data(), inputs.mask_stride, inputs.mask_inner, inputs.mask_period};
}

tglo::CudaLoss describe(const Inputs& inputs, Way way) {
  const Problem& problem = inputs.problem;
  tglo::CudaLoss loss = {};
  loss.type = problem.type;
  loss.policy = inputs.policy.data();
  loss.target = inputs.target.data();
  loss.mask = mask_of(inputs);
  loss.rows = problem.rows();
  tglo::LossCall& call = loss.call;
  call.elements = problem.elements;
  call.mean_over_mask = problem.masked && !problem.over_elements;
  if (way == Way::error) {
    call.batch = problem.rows();
    call.draws = 1;
    return loss;
  }
  loss.reference = problem.reference ? inputs.reference.data() : nullptr;
  call.batch = problem.batch;
  call.draws = problem.draws;
  if (!problem.reference) call.cached_error = numbers(inputs.cached_error);
  call.scores = problem.numbers ? numbers(inputs.narrow_scores) : numbers(inputs.scores);
  if (problem.numbers) {
    call.threshold_value = inputs.threshold.empty() ? 0.0 : inputs.threshold[0];
    call.timestep_weight_value = inputs.timestep_weight.empty() ? 0.0 : inputs.timestep_weight[0];
    call.sample_weight_value = inputs.sample_weight.empty() ? 0.0 : inputs.sample_weight[0];
    call.loss_scale_value = inputs.loss_scale[0];
  } else {
    call.threshold = numbers(inputs.threshold);
    call.timestep_weight = numbers(inputs.timestep_weight);
    call.sample_weight = numbers(inputs.sample_weight);
    call.loss_scale = numbers(inputs.loss_scale);
  }
  call.parameters.beta = problem.beta;
  call.parameters.temperature = problem.temperature;
  call.parameters.confidence = problem.confidence;
  call.reduction = problem.reduced == Reduced::none   ? tglo::Reduction::none
                   : problem.reduced == Reduced::mean ? tglo::Reduction::mean
                                                      : tglo::Reduction::sum;
  return loss;
}

}  // namespace

const char* name_of(Way way) {
  static const char* const names[] = {"error", "two launches", "at once", "cluster", "cooperative"};
  return names[static_cast<int>(way)];
}

Outputs::Outputs(const Inputs& inputs)
    : loss(sizeof(float) * (inputs.problem.reduced == Reduced::none ? inputs.problem.batch : 1)),
      implicit_score(sizeof(double) * inputs.problem.batch), policy_error(sizeof(double) * inputs.problem.rows()),
      reference_error(sizeof(double) * inputs.problem.rows()), coefficient(sizeof(double) * inputs.problem.rows()),
      gradient(inputs.policy.size(), inputs.problem.alignment == Alignment::misaligned ? size_of(inputs.problem.type) : 0) {}

void Outputs::poison() {
  for (Buffer* buffer : {&loss, &implicit_score, &policy_error, &reference_error, &coefficient, &gradient}) buffer->poison();
}

bool Outputs::intact() const {
  for (const Buffer* buffer : {&loss, &implicit_score, &policy_error, &reference_error, &coefficient, &gradient})
    if (!buffer->intact()) return false;
  return true;
}

std::vector<char> Outputs::bytes() const {
  std::vector<char> all;
  for (const Buffer* buffer : {&loss, &implicit_score, &policy_error, &reference_error, &coefficient, &gradient})
    all.insert(all.end(), buffer->data<char>(), buffer->data<char>() + buffer->size());
  return all;
}

void Scratch::resize(int64_t doubles, int64_t count) {
  workspace = Buffer(sizeof(double) * doubles);
  counters = Buffer(sizeof(uint32_t) * count);
  memset(counters.data(), 0, counters.size());
}

bool Scratch::counters_are_zero() const {
  for (size_t k = 0; k < counters.size(); ++k)
    if (counters.data<char>()[k]) return false;
  return workspace.intact() && counters.intact();
}

bool plan(const Inputs& inputs, Way way, tglo::Plan* plan, int* error) {
  const tglo::CudaLoss loss = describe(inputs, way);
  *error = 0;
  switch (way) {
    case Way::error:
    case Way::two_launches: *plan = tglo::plan_loss(loss.rows, loss.call.elements); return true;
    case Way::at_once: *plan = tglo::plan_loss_and_grad(loss, error); return true;
    case Way::cluster: return tglo::plan_cluster(loss, plan, error);
    case Way::cooperative: return tglo::plan_cooperative(loss, plan, error);
  }
  return false;
}

int call(const Inputs& inputs, Way way, const tglo::Plan& plan, Outputs& outputs, Scratch& scratch, void* stream) {
  tglo::CudaLoss loss = describe(inputs, way);
  loss.workspace = scratch.workspace.data<double>();
  loss.counters = scratch.counters.data<uint32_t>();
  loss.stream = stream;
  loss.call.policy_error = outputs.policy_error.data<double>();
  if (way == Way::error) return tglo::launch_loss(loss);
  loss.call.loss = outputs.loss.data<float>();
  loss.call.implicit_score = outputs.implicit_score.data<double>();
  loss.call.reference_error = outputs.reference_error.data<double>();
  loss.call.coefficient = outputs.coefficient.data<double>();
  if (way == Way::two_launches) {
    if (const int error = tglo::launch_loss(loss)) return error;
    tglo::CudaLoss backward = describe(inputs, Way::error);
    backward.gradient = outputs.gradient.data();
    backward.call.draws = inputs.problem.draws;
    backward.stream = stream;
    const int error = tglo::launch_backward(backward, numbers(inputs.grad_loss),
                                            {outputs.coefficient.data(), 1, true});
    if (error || inputs.grad_loss.size() > 1) return error;
    // Written before for this number: a launch that would write other values writes nothing.
    std::vector<double> other(static_cast<size_t>(inputs.problem.rows()), 77.0);
    return tglo::launch_backward(backward, numbers(inputs.grad_loss), {other.data(), 1, true},
                                 static_cast<double>(inputs.grad_loss[0]));
  }
  loss.gradient = outputs.gradient.data();
  switch (way) {
    case Way::cluster: return tglo::launch_cluster(loss, plan);
    case Way::cooperative: return tglo::launch_cooperative(loss, plan);
    default: return tglo::launch_loss_and_grad(loss, plan);
  }
}

bool give_up(const Inputs& inputs, Way way, const tglo::Plan& plan, int error) {
  return way == Way::at_once && tglo::give_up(describe(inputs, way), plan, error);
}

void give_up_all(const Inputs& inputs) {
  for (const tglo::Form form : {tglo::Form::cluster, tglo::Form::cooperative}) {
    tglo::Plan plan = {};
    plan.form = form;
    tglo::give_up(describe(inputs, Way::at_once), plan, cudaErrorInvalidClusterSize);
  }
}

void gradient_on_cpu(const Inputs& inputs, const double* coefficient, Buffer& gradient) {
  const Problem& problem = inputs.problem;
  for (int64_t row = 0; row < problem.rows(); ++row) {
    tglo::Mask mask = mask_of(inputs);
    if (mask.data) mask.data += row * mask.row_stride;
    const size_t start = static_cast<size_t>(row * problem.elements) * size_of(problem.type);
    const double outer = inputs.grad_loss[inputs.grad_loss.size() > 1 ? row / problem.draws : 0];
    tglo::baseline::cpu_kernels.gradient(
        problem.type, inputs.policy.data<char>() + start, inputs.target.data<char>() + start,
        gradient.data<char>() + start, problem.elements, outer * coefficient[row], mask, 0);
  }
}

}  // namespace driver
