// The formulas of the TGO loss: what happens to one sample once the sums over its prediction are known.
// Host and device share this source. Formulas: arXiv 2605.04653; tglo/reference/ states them in PyTorch.
// Everything here is of batch size, so double costs nothing and keeps scores, thresholds and small differences exact.
#pragma once

#include <math.h>
#include <stdint.h>

#include "common/launch.h"

namespace tglo {

struct LossParameters {
  double beta;
  double temperature;
  double confidence;
};

struct SampleLoss {
  double loss;   // v w softplus(-z r), v the weight of the sample
  double slope;  // d loss / d r = -v w z sigmoid(-z r)
};

// A tie is positive.
TGLO_HOST_DEVICE inline double label_sign(double score, double threshold) {
  return score >= threshold ? 1.0 : -1.0;
}

TGLO_HOST_DEVICE inline double confidence_weight(double score, double threshold, double confidence) {
  return 1.0 + confidence * fabs(score - threshold);
}

// log(1 + exp(x)): finite for every finite x, full precision in both tails.
TGLO_HOST_DEVICE inline double softplus(double x) {
  return (x > 0.0 ? x : 0.0) + log1p(exp(-fabs(x)));
}

TGLO_HOST_DEVICE inline double sigmoid(double x) {
  const double e = exp(-fabs(x));
  return (x >= 0.0 ? 1.0 : e) / (1.0 + e);
}

TGLO_HOST_DEVICE inline SampleLoss sample_loss(
    double implicit_score, double score, double threshold, double confidence, double sample_weight) {
  if (sample_weight == 0.0) return {0.0, 0.0};  // whatever the score is, be it NaN
  const double sign = label_sign(score, threshold);
  const double weight = sample_weight * confidence_weight(score, threshold, confidence);
  const double argument = -sign * implicit_score;
  return {weight * softplus(argument), -weight * sign * sigmoid(argument)};
}

// One draw's share of ell: -(omega / T) (e_theta - e_ref).
TGLO_HOST_DEVICE inline double draw_log_ratio(
    double error_difference, double timestep_weight, double temperature) {
  return -(timestep_weight / temperature) * error_difference;
}

// coeff with d loss / d p = coeff (p - y) for one of `draws` draws of `elements` elements each (of the mask's sum).
TGLO_HOST_DEVICE inline double prediction_coefficient(
    double slope, double timestep_weight, const LossParameters& parameters, int64_t draws,
    double elements) {
  return -slope * parameters.beta * (timestep_weight / parameters.temperature) * (2.0 / elements) /
         static_cast<double>(draws);
}

}  // namespace tglo
