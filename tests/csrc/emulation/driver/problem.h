// A call of the loss in plain words, and what float64 says of it. Independent of csrc/: calls.h makes the kernels' structures.
#pragma once

#include <string>
#include <vector>

#include "check.h"

namespace driver {

enum class Alignment { aligned, odd, misaligned };
enum class Reduced { none, mean, sum };

struct Problem {
  tglo::Element type;
  int64_t batch, draws, elements;
  Alignment alignment;
  bool reference, masked;
  int mask_form;
  bool over_elements;  // means divide by the number of elements and not by the mask's sum
  Reduced reduced;
  bool numbers;  // threshold, timestep weight and scale as numbers, not as vectors
  double beta, temperature, confidence;
  uint64_t seed;

  int64_t rows() const { return batch * draws; }
  std::string name() const;
};

// Inputs of a problem in memory as the kernels read them.
struct Inputs {
  explicit Inputs(const Problem& problem);

  double weight(int64_t row, int64_t i) const;

  Problem problem;
  Buffer policy, target, reference;
  int64_t mask_inner, mask_period, mask_stride;
  std::vector<float> mask;
  std::vector<double> cached_error, scores, threshold, timestep_weight, sample_weight, loss_scale;
  std::vector<float> narrow_scores;  // the same numbers
  std::vector<float> grad_loss;      // one, or one a sample without reduction
};

struct Expected {
  std::vector<double> loss, implicit_score, policy_error, reference_error, coefficient;
  std::vector<double> weight;           // of the sample in the loss
  std::vector<double> tolerance;        // of implicit_score, absolute
  std::vector<double> reference_slack;  // of reference_error, absolute

  explicit Expected(const Inputs& inputs);
  double gradient(const Inputs& inputs, int64_t row, int64_t i, double factor) const;
};

}  // namespace driver
