// What the device refuses: errors come back, nothing is written, and the next call is well.
#include <cuda_runtime.h>

#include "calls.h"
#include "cases.h"

namespace driver {
namespace {

Problem plain_problem(int64_t elements) {
  Problem problem = {};
  problem.type = tglo::Element::bfloat16;
  problem.batch = 2;
  problem.draws = 1;
  problem.elements = elements;
  problem.reference = true;
  problem.reduced = Reduced::mean;
  problem.numbers = true;
  problem.beta = problem.temperature = 1.0;
  return problem;
}

// A plan for another device than this one.
void refused_plan(Way way, const tglo::Plan& plan, int expected) {
  const Inputs inputs(plain_problem(4096));
  begin_case(std::string("refused ") + name_of(way));
  Outputs outputs(inputs);
  Scratch scratch;
  scratch.resize(100000, 1000);
  const std::vector<char> poison = outputs.bytes();
  const int error = call(inputs, way, plan, outputs, scratch, nullptr);
  require(error == expected, "error %d, expected %d", error, expected);
  require(outputs.bytes() == poison && scratch.counters_are_zero(), "a launch that was refused has written");
  cudaGetLastError();
}

}  // namespace

void limit_cases() {
  int major = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
  tglo::Plan plan = {};
  int error = 0;
  const Inputs inputs(plain_problem(4096));
  begin_case("plans");
  const bool clusters = driver::plan(inputs, Way::cluster, &plan, &error);
  require(error == 0, "planning a cluster: error %d", error);
  require(clusters == (major >= 9), "a cluster is planned on a device of %d", major);
  plan.workspace = 1000;
  plan.counters = 100;
  plan.blocks = 1000;
  plan.groups = 2;
  refused_plan(Way::cooperative, plan, cudaErrorCooperativeLaunchTooLarge);
}

}  // namespace driver
