// The host's side of the CUDA kernels: plans, counters and errors, on the emulated device. Exits with 1 at the first fault.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "common/device.h"
#include "loss/cuda.h"

namespace {

void require(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAULT %s\n", what);
  std::exit(1);
}

// Two samples of float32 with a reference, and room for every form.
struct Call {
  std::vector<float> p, y, q, gradient;
  std::vector<double> workspace = std::vector<double>(100000), implicit_score, policy_error, reference_error, scores;
  std::vector<uint32_t> counters = std::vector<uint32_t>(tglo::stream_counters);
  float value = NAN;
  tglo::CudaLoss loss = {};

  explicit Call(int64_t elements, int64_t draws = 1) : scores{0.2, 0.8} {
    const int64_t rows = 2 * draws;
    for (int64_t i = 0; i < rows * elements; ++i) {
      p.push_back(static_cast<float>(i % 7) * 0.125f);
      y.push_back(static_cast<float>(i % 5) * 0.25f);
      q.push_back(static_cast<float>(i % 3) * 0.5f);
    }
    gradient.assign(p.size() + 1, NAN);
    for (auto* results : {&implicit_score, &policy_error, &reference_error}) results->assign(rows, NAN);
    loss.type = tglo::Element::float32;
    loss.policy = p.data();
    loss.target = y.data();
    loss.reference = q.data();
    loss.gradient = gradient.data();
    loss.mask = {nullptr, 0, 1, 1};
    loss.rows = rows;
    loss.workspace = workspace.data();
    loss.counters = counters.data();
    tglo::LossCall& call = loss.call;
    call.scores = {scores.data(), 1, true};
    call.threshold_value = 0.5;
    call.timestep_weight_value = call.sample_weight_value = call.loss_scale_value = 1.0;
    call.parameters = {1.0, 1.0, 1.0};
    call.batch = 2;
    call.draws = draws;
    call.elements = elements;
    call.reduction = tglo::Reduction::mean;
    call.loss = &value;
    call.implicit_score = implicit_score.data();
    call.policy_error = policy_error.data();
    call.reference_error = reference_error.data();
  }

  tglo::Form run() {
    int error = 0;
    const tglo::Plan plan = tglo::plan_loss_and_grad(loss, &error);
    require(error == 0, "a plan without an error");
    constexpr double mark = 12345.0;
    workspace.assign(plan.workspace + 1, NAN);
    workspace.back() = mark;
    loss.workspace = workspace.data();
    require(plan.counters <= tglo::stream_counters, "a stream's counters are enough");
    require(tglo::launch_loss_and_grad(loss, plan) == 0 && cudaDeviceSynchronize() == cudaSuccess, "the launch works");
    for (uint32_t counter : counters) require(counter == 0, "counters are zeros again");
    require(workspace.back() == mark, "the workspace is as large as the plan says");
    return plan.form;
  }
};

tglo::Plan plan_of(Call& call, tglo::Form form) {
  int error = 0;
  const tglo::Plan plan = tglo::plan_loss_and_grad(call.loss, &error);
  require(error == 0 && plan.form == form, "the form that is next");
  return plan;
}

void compare(const Call& a, const Call& b) {
  require(a.value == b.value && std::isfinite(a.value), "forms agree on the loss");
  require(a.policy_error == b.policy_error && a.implicit_score == b.implicit_score, "forms agree on statistics");
  require(!std::memcmp(a.gradient.data(), b.gradient.data(), a.p.size() * sizeof(float)), "forms agree on the gradient");
}

// Each form is given up in turn; what is left gives the same. Of 2,048 elements all forms make one part.
void forms(bool clusters) {
  Call first(2048), empty(0), many(16, 100);
  require(many.run() == tglo::Form::two_launches, "more draws than a group takes");
  const tglo::Form best = first.run();
  require(best == (clusters ? tglo::Form::cluster : tglo::Form::cooperative), "the best form");
  empty.run();
  require(empty.policy_error[1] == 0.0 && empty.implicit_score[1] == 0.0, "rows without elements have no error");
  tglo::Plan plan = plan_of(first, best);
  require(!tglo::give_up(first.loss, plan, cudaErrorIllegalAddress), "a kernel's fault is no matter of the form");
  for (const tglo::Form form : {tglo::Form::cluster, tglo::Form::cooperative}) {
    if (form < best) continue;
    plan = plan_of(first, form);
    const int error = form == tglo::Form::cluster ? cudaErrorInvalidClusterSize : cudaErrorCooperativeLaunchTooLarge;
    require(tglo::give_up(first.loss, plan, error), "a form that does not start is given up");
    Call next(2048), none(0);
    require(next.run() > form, "it is not planned again");
    compare(first, next);
    none.run();
    compare(empty, none);
  }
  plan = plan_of(first, tglo::Form::two_launches);
  require(!tglo::give_up(first.loss, plan, cudaErrorInvalidConfiguration), "nothing is left after two launches");
}

void errors() {
  Call call(2048);
  tglo::Plan plan = {1000, 100, 1000, 2, tglo::Form::cooperative};
  require(tglo::launch_loss_and_grad(call.loss, plan) != 0, "a cooperative grid that is too large");
  require(cudaPeekAtLastError() == cudaSuccess, "its error is not left behind");
  plan.form = tglo::Form::cluster;
  require(tglo::launch_loss_and_grad(call.loss, plan) != 0, "a cluster that is too large");
  require(cudaPeekAtLastError() == cudaSuccess, "its error is not left behind either");
  require(tglo::probe_device(99) != 0 && cudaPeekAtLastError() == cudaSuccess, "nor that of a device that is not there");
  require(cudaSetDevice(99) != cudaSuccess, "somebody else's error");
  call.run();
  require(cudaGetLastError() != cudaSuccess, "stays, and is not taken for ours");
}

// Plans of videos' rows, of rows of more than 2^31 elements, and of more blocks than a grid has; no memory is touched.
void large_rows() {
  constexpr int64_t wan = 16 * 21 * 60 * 104, longer = (int64_t{1} << 31) + 24;
  tglo::CudaLoss loss = {};
  loss.type = tglo::Element::bfloat16;
  loss.policy = loss.target = loss.reference = loss.gradient = &loss;
  loss.call.draws = 1;
  for (const int64_t elements : {wan, longer}) {
    for (int64_t batch = 1; batch <= 4; ++batch) {
      loss.rows = loss.call.batch = batch;
      loss.call.elements = elements;
      int error = 0;
      const tglo::Plan plan = tglo::plan_loss_and_grad(loss, &error);
      require(error == 0 && plan.form != tglo::Form::cluster, "no cluster holds a video's row");
      require(plan.counters <= tglo::stream_counters, "a stream's counters are enough for long rows");
      require(plan.groups >= 1 && plan.groups <= batch && plan.blocks >= 1, "every group has a sample");
      require(plan.workspace == batch + plan.groups * int64_t{2 * 3} * plan.blocks, "two places of three sums a block");
      const int64_t parts = (elements + 16383) / 16384;
      require(tglo::plan_loss(batch, elements).workspace == batch * (3 * parts + 2), "three sums a part, two a row");
    }
  }
  // 131,073 parts a row: more of them than a grid has blocks are refused, not wrapped around.
  loss.rows = loss.call.batch = 1 << 15;
  require(tglo::launch_loss(loss) == cudaErrorInvalidConfiguration, "a forward of 2^46 elements");
  require(tglo::launch_backward(loss, {}, {}) == cudaErrorInvalidConfiguration, "and its backward");
}

uint32_t* counters_of(cudaStream_t stream) {
  uint32_t* counters = nullptr;
  require(tglo::counters_of(0, stream, &counters) == 0, "asking for counters");
  return counters;
}

void counters() {
  std::vector<cudaStream_t> streams(70);
  for (cudaStream_t& stream : streams) cudaStreamCreate(&stream);
  // The first time while another stream of this process is captured.
  cudaStreamBeginCapture(streams[0], cudaStreamCaptureModeGlobal);
  require(counters_of(streams[0]) == nullptr, "a graph brings its own");
  uint32_t* const first = counters_of(streams[1]);
  require(first != nullptr, "memory in spite of a capture");
  cudaGraph_t graph = nullptr;
  require(cudaStreamEndCapture(streams[0], &graph) == cudaSuccess, "the capture is whole");
  cudaGraphDestroy(graph);
  std::set<uint32_t*> places;
  int without = 0;
  for (cudaStream_t stream : streams)
    if (uint32_t* place = counters_of(stream)) places.insert(place);
    else ++without;
  require(places.size() == 64 && without == 6, "64 streams have places of their own");
  require(places.count(first) && counters_of(streams[1]) == first, "a stream keeps its place");
  for (const uint32_t* place : places) {
    for (int64_t k = 0; k < tglo::stream_counters; ++k) require(place[k] == 0, "zeros");
    require(!places.count(const_cast<uint32_t*>(place) + 1), "places lie apart");
  }
  cudaStreamDestroy(streams[1]);
  cudaStream_t late = nullptr;
  cudaStreamCreate(&late);
  require(counters_of(late) == nullptr, "a new stream is not an old one, whatever its handle");
}

}  // namespace

int main(int count, char** arguments) {
  errors();
  large_rows();
  forms(count > 1 && !std::strcmp(arguments[1], "clusters"));
  counters();
  std::puts("PASSED");
}
