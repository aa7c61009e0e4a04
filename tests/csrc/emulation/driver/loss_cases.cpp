// The kernels of the loss against float64, bit for bit against themselves, and against the CPU where the bits are the same.
#include <cuda_runtime.h>
#include <math.h>

#include <algorithm>
#include <iterator>

#include "calls.h"
#include "cases.h"

namespace driver {
namespace {

#if defined(__SANITIZE_THREAD__)
// It is asked for order among the threads of a launch and between two streams, not for results: what a stream does again,
// from a graph or otherwise, comes after what it did.
constexpr bool repeat = false;
#else
constexpr bool repeat = true;
#endif

void check_statistics(const Inputs& inputs, const Expected& expected, const Outputs& outputs, Way way) {
  const Problem& problem = inputs.problem;
  for (int64_t row = 0; row < problem.rows(); ++row)
    require_close(outputs.policy_error.data<double>()[row], expected.policy_error[row],
                  1e-6 * expected.policy_error[row], "policy_error", row);
  if (way == Way::error) return;
  double slack = 0.0;
  for (int64_t sample = 0; sample < problem.batch; ++sample) {
    require_close(outputs.implicit_score.data<double>()[sample], expected.implicit_score[sample],
                  expected.tolerance[sample], "implicit_score", sample);
    slack += expected.weight[sample] * expected.tolerance[sample];
  }
  for (int64_t row = 0; row < problem.rows(); ++row)
    require_close(outputs.reference_error.data<double>()[row], expected.reference_error[row],
                  expected.reference_slack[row], "reference_error", row);
  for (size_t k = 0; k < expected.loss.size(); ++k)
    require_close(outputs.loss.data<float>()[k], expected.loss[k], slack + 1.2e-7 * fabs(expected.loss[k]), "loss",
                  static_cast<int64_t>(k));
}

void check_gradient(const Inputs& inputs, const Expected& expected, const Outputs& outputs, Way way) {
  const Problem& problem = inputs.problem;
  for (int64_t row = 0; row < problem.rows(); ++row) {
    const int64_t sample = row / problem.draws;
    const double factor = way == Way::two_launches ? inputs.grad_loss[inputs.grad_loss.size() > 1 ? sample : 0]
                                                   : inputs.loss_scale[0];
    const double relative = 1.01 * (expected.tolerance[sample] + 4e-7);
    require_close(outputs.coefficient.data<double>()[row], expected.coefficient[row],
                    relative * fabs(expected.coefficient[row]), "coefficient", row);
    for (int64_t i = 0; i < problem.elements; ++i) {
      const int64_t at = row * problem.elements + i;
      const double value = expected.gradient(inputs, row, i, factor);
      require_close(read(problem.type, outputs.gradient.data(), at), value,
                    value == 0.0 ? 0.0 : relative * fabs(value) + 1.01 * rounding(problem.type, value), "gradient", at);
    }
  }
}

// The CPU rounds each product and sum of the gradient as the GPU does, so the same coefficients give the same bits. Its
// sums run in another order, so that nothing else is compared.
void check_with_cpu(const Inputs& inputs, const Outputs& outputs) {
  Buffer gradient(outputs.gradient.size());
  gradient_on_cpu(inputs, outputs.coefficient.data<double>(), gradient);
  int64_t different = 0;
  for (int64_t at = 0; at < inputs.problem.rows() * inputs.problem.elements; ++at) {
    const double a = read(inputs.problem.type, gradient.data(), at), b = read(inputs.problem.type, outputs.gradient.data(), at);
    different += !(a == b || (isnan(a) && isnan(b)));
  }
  require(different == 0, "%lld elements of the gradient are not the CPU's", static_cast<long long>(different));
}

// Returns false where the device does not go this way.
bool run_way(const Inputs& inputs, const Expected& expected, Way way, bool streams) {
  int error = 0;
  tglo::Plan plan = {};
  const bool possible = driver::plan(inputs, way, &plan, &error);
  if (!possible && !error) return false;
  begin_case(inputs.problem.name() + ", " + name_of(way));
  require(error == 0, "planning: error %d", error);
  if (error) return true;

  Outputs outputs(inputs);
  Scratch scratch;
  scratch.resize(plan.workspace, plan.counters);
  std::vector<char> first;
  const auto after = [&](const char* what, int failed) {
    require(failed == 0, "%s: error %d", what, failed);
    require(scratch.counters_are_zero(), "%s: counters that are not 0, or writes beside the workspace", what);
    require(outputs.intact(), "%s: writes beside the outputs", what);
    if (first.empty()) first = outputs.bytes();
    require(outputs.bytes() == first, "%s: other bits than the first time", what);
  };
  const auto before = [&] {
    outputs.poison();
    scratch.workspace.poison();
  };
  int refused = call(inputs, way, plan, outputs, scratch, nullptr);
  while (refused && give_up(inputs, way, plan, refused)) {
    driver::plan(inputs, way, &plan, &error);
    scratch.resize(plan.workspace, plan.counters);
    refused = call(inputs, way, plan, outputs, scratch, nullptr);
  }
  after("first", refused);
  if (refused) return true;
  check_statistics(inputs, expected, outputs, way);
  if (way != Way::error) check_gradient(inputs, expected, outputs, way);
  if (way == Way::two_launches) check_with_cpu(inputs, outputs);
  before();
  after("again", call(inputs, way, plan, outputs, scratch, nullptr));
  if (repeat)
    as_graph([&](void* stream) { return call(inputs, way, plan, outputs, scratch, stream); }, before,
             [&](int failed) { after("graph", failed); });
  if (!streams) return true;
  on_two_streams([&](int, void* stream) {
    Outputs own(inputs);
    Scratch memory;
    memory.resize(plan.workspace, plan.counters);
    for (int turn = 0; turn < 1 + repeat; ++turn) {
      const int failed = call(inputs, way, plan, own, memory, stream);
      require(failed == 0 && memory.counters_are_zero() && own.bytes() == first, "two streams: error %d, or other bits", failed);
    }
  });
  return true;
}

// Equal predictions give equal errors, whatever they are computed with and beside.
void check_errors_alone(const Inputs& inputs) {
  int error = 0;
  tglo::Plan plan = {};
  std::vector<char> errors[2];
  for (const Way way : {Way::error, Way::two_launches}) {
    driver::plan(inputs, way, &plan, &error);
    Outputs outputs(inputs);
    Scratch scratch;
    scratch.resize(plan.workspace, plan.counters);
    call(inputs, way, plan, outputs, scratch, nullptr);
    errors[way == Way::two_launches] = outputs.policy_error.bytes();
  }
  require(errors[0] == errors[1], "prediction_error has other bits than the loss's own error");
}

constexpr int64_t all_elements[] = {1, 7, 8, 9, 40, 2047, 2048, 2049, 3000, 4096, 16392, 20001, 65536};
constexpr int64_t all_draws[] = {1, 3, 8, 9}, all_batches[] = {1, 2, 5, 33};

Problem draw_problem(uint64_t number, int64_t most) {
  Random random(number);
  Problem problem = {};
  // The first two change in step with the number, so that each value comes as often as the others.
  problem.type = static_cast<tglo::Element>(number % 3);
  problem.alignment = static_cast<Alignment>(number / 3 % 3);
  problem.reference = number / 9 % 2;
  problem.masked = number / 18 % 2;
  problem.mask_form = static_cast<int>(random.below(4));
  problem.over_elements = problem.masked && random.below(3) == 0;
  problem.reduced = static_cast<Reduced>(random.below(3));
  problem.numbers = random.below(2);
  problem.beta = 2.0;
  problem.temperature = 0.05 + random.uniform();
  problem.confidence = random.below(2) ? 0.5 : 0.0;
  problem.seed = number;
  do {
    problem.elements = all_elements[random.below(std::size(all_elements))];
    problem.draws = all_draws[random.below(std::size(all_draws))];
    problem.batch = all_batches[random.below(std::size(all_batches))];
    if (problem.alignment == Alignment::odd) problem.elements |= 1;
    else problem.elements = (problem.elements + 7) / 8 * 8;
  } while (problem.rows() * problem.elements > most);
  return problem;
}

// Few problems that every form of the kernels has work with: several parts of a row, several samples a group, clusters of
// several blocks, masks that differ from row to row.
std::vector<Problem> chosen_problems() {
  std::vector<Problem> problems;
  const auto add = [&](tglo::Element type, int64_t batch, int64_t draws, int64_t elements, Alignment alignment,
                       bool reference, bool masked, int mask_form) {
    Problem problem = draw_problem(1000 + problems.size(), 1000);
    problem.type = type;
    problem.batch = batch;
    problem.draws = draws;
    problem.elements = elements;
    problem.alignment = alignment;
    problem.reference = reference;
    problem.masked = masked;
    problem.mask_form = mask_form;
    problem.over_elements = false;
    problem.reduced = Reduced::mean;
    problems.push_back(problem);
  };
  add(tglo::Element::float32, 7, 1, 4096, Alignment::aligned, false, true, 0);
  add(tglo::Element::bfloat16, 3, 3, 4104, Alignment::aligned, true, false, 0);
  add(tglo::Element::float16, 3, 1, 4099, Alignment::misaligned, true, true, 3);
  add(tglo::Element::bfloat16, 2, 9, 9, Alignment::odd, false, true, 2);
  add(tglo::Element::bfloat16, 2, 1, 3001, Alignment::odd, true, false, 0);
  add(tglo::Element::float32, 2, 2, 0, Alignment::aligned, true, false, 0);
  return problems;
}

int run_problem(const Problem& problem, bool streams) {
  const Inputs inputs(problem);
  const Expected expected(inputs);
  int ways = 0;
  for (const Way way : {Way::error, Way::two_launches, Way::at_once, Way::cluster, Way::cooperative})
    ways += run_way(inputs, expected, way, streams);
  if (repeat) check_errors_alone(inputs);
  return ways;
}

// An empty batch: nothing is written, and nothing fails but the launch.
void empty_batch() {
  for (const Way way : {Way::error, Way::two_launches}) {
    Problem problem = draw_problem(1, 1000);
    problem.batch = 0;
    const Inputs inputs(problem);
    begin_case(problem.name());
    int error = 0;
    tglo::Plan plan = {};
    driver::plan(inputs, way, &plan, &error);
    require(plan.workspace == 0, "a workspace of %lld for no rows", static_cast<long long>(plan.workspace));
    Outputs outputs(inputs);
    Scratch scratch;
    scratch.resize(plan.workspace, plan.counters);
    const std::vector<char> poison = outputs.bytes();
    call(inputs, way, plan, outputs, scratch, nullptr);
    cudaGetLastError();
    require(outputs.bytes() == poison && outputs.intact() && scratch.counters_are_zero(), "writes for an empty batch");
  }
}

void large_rows() {
  for (const int64_t elements : {int64_t{131073}, int64_t{524296}, int64_t{2000000}}) {
    Problem problem = draw_problem(36 + static_cast<uint64_t>(elements), 1000);
    problem.batch = elements == 2000000 ? 1 : 2;
    problem.draws = 1;
    problem.elements = elements;
    problem.alignment = elements % 8 ? Alignment::odd : Alignment::aligned;
    run_problem(problem, false);
  }
}

}  // namespace

void loss_cases(const Amount& amount) {
  for (const Problem& problem : chosen_problems()) run_problem(problem, true);
  for (int number = 0; number < amount.loss_cases; ++number)
    run_problem(draw_problem(static_cast<uint64_t>(number), amount.most_elements), number % 3 == 0);
  empty_batch();
  if (amount.large) large_rows();
  give_up_all(Inputs(draw_problem(0, 1000)));
  for (int number = 0; number < std::min(amount.loss_cases, 12); ++number) {
    const Inputs inputs(draw_problem(static_cast<uint64_t>(number), amount.most_elements));
    run_way(inputs, Expected(inputs), Way::at_once, false);
  }
}

}  // namespace driver