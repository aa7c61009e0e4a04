#include "problem.h"

#include <math.h>

#include <algorithm>

namespace driver {
namespace {

size_t bytes_of(const Problem& problem) { return static_cast<size_t>(problem.rows() * problem.elements) * size_of(problem.type); }
size_t offset_of(const Problem& problem) { return problem.alignment == Alignment::misaligned ? size_of(problem.type) : 0; }

}  // namespace

std::string Problem::name() const {
  static const char* const alignments[] = {"aligned", "odd", "misaligned"};
  static const char* const reductions[] = {"none", "mean", "sum"};
  return std::string(name_of(type)) + " " + std::to_string(batch) + "x" + std::to_string(draws) + "x" +
         std::to_string(elements) + " " + alignments[static_cast<int>(alignment)] + (reference ? " reference" : " cached") +
         (masked ? " mask" + std::to_string(mask_form) + (over_elements ? " over elements" : "") : "") + " " + reductions[static_cast<int>(reduced)] +
         (numbers ? " numbers" : " vectors");
}

Inputs::Inputs(const Problem& given)
    : problem(given), policy(bytes_of(given), offset_of(given)), target(bytes_of(given), offset_of(given)),
      reference(bytes_of(given), offset_of(given)) {
  Random random(given.seed);
  const int64_t elements = given.elements, rows = given.rows();
  // One weight an element of each row; the same for all rows; channels that share weights; weights of five neighbours.
  mask_inner = given.mask_form == 3 ? 5 : 1;
  mask_period = given.mask_form == 2 ? std::max<int64_t>(elements / 4, 1)
                : given.mask_form == 3 ? std::max<int64_t>((elements + 4) / 5, 1) : std::max<int64_t>(elements, 1);
  mask_stride = given.mask_form == 1 ? 0 : mask_period;
  if (given.masked) {
    mask.resize(static_cast<size_t>(mask_stride ? rows * mask_stride : mask_period));
    for (float& weight : mask) weight = random.below(3) == 0 ? 0.0f : 0.5f * static_cast<float>(1 + random.below(4));
    if (mask_stride && rows > 1)  // a row of which nothing counts
      std::fill(mask.begin(), mask.begin() + mask_stride, 0.0f);
  }
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < elements; ++i) {
      const int64_t at = row * elements + i;
      const bool hidden = given.masked && weight(row, i) == 0.0;
      const double y = random.spread(), p = y + 0.5 * random.spread(), q = p + 0.2 * random.spread();
      write(given.type, policy.data(), at, hidden && random.below(2) ? NAN : p);
      write(given.type, target.data(), at, hidden && random.below(2) ? NAN : y);
      write(given.type, reference.data(), at, hidden && random.below(2) ? NAN : q);
    }
  for (int64_t row = 0; row < rows; ++row) {
    cached_error.push_back(0.08 + 0.02 * random.spread());
    timestep_weight.push_back(given.numbers ? 1.25 : 0.5 + random.uniform());
  }
  for (int64_t sample = 0; sample < given.batch; ++sample) {
    narrow_scores.push_back(static_cast<float>(random.spread()));
    scores.push_back(narrow_scores.back());
    // Every third sample is a tie, which counts as positive.
    threshold.push_back(given.numbers ? 0.25 : sample % 3 == 2 ? scores.back() : 0.5 * random.spread());
    sample_weight.push_back(given.numbers ? 0.75 : sample % 4 == 1 ? 0.0 : 0.5 + random.uniform());
    if (sample_weight.back() == 0.0) scores.back() = NAN;  // what has no weight needs no score
    grad_loss.push_back(static_cast<float>(0.5 + random.uniform()));
  }
  if (given.reduced != Reduced::none && given.batch) grad_loss.resize(1);
  loss_scale.push_back(given.numbers ? 3.0 : 1024.0);
}

double Inputs::weight(int64_t row, int64_t i) const {
  return problem.masked ? mask[static_cast<size_t>(row * mask_stride + i / mask_inner % mask_period)] : 1.0;
}

Expected::Expected(const Inputs& inputs) {
  const Problem& problem = inputs.problem;
  double total = 0.0;
  const double share = problem.reduced == Reduced::mean ? 1.0 / static_cast<double>(problem.batch) : 1.0;
  for (int64_t sample = 0; sample < problem.batch; ++sample) {
    double ell = 0.0, slack = 0.0;
    std::vector<double> counts;
    for (int64_t draw = 0; draw < problem.draws; ++draw) {
      const int64_t row = sample * problem.draws + draw;
      double count = 0.0, error = 0.0, other = 0.0, terms = 0.0;
      for (int64_t i = 0; i < problem.elements; ++i) {
        const double m = inputs.weight(row, i);
        if (m == 0.0) continue;
        const int64_t at = row * problem.elements + i;
        const double p = read(problem.type, inputs.policy.data(), at), y = read(problem.type, inputs.target.data(), at),
                     q = read(problem.type, inputs.reference.data(), at);
        count += m;
        error += m * (p - y) * (p - y);
        other += m * (q - y) * (q - y);
        terms += m * fabs(p - q) * (fabs(p - y) + fabs(q - y));
      }
      if (problem.over_elements) count = static_cast<double>(problem.elements);
      const double scale = count == 0.0 ? 0.0 : 1.0 / count;
      error *= scale;
      other = problem.reference ? other * scale : inputs.cached_error[row];
      const double difference = count == 0.0 ? 0.0 : error - other;
      const double row_slack = 1e-6 * (problem.reference ? terms * scale : error);
      policy_error.push_back(error);
      reference_error.push_back(other);
      reference_slack.push_back(row_slack + 1e-6 * error);
      const double factor = inputs.timestep_weight[row] / problem.temperature;
      ell -= factor * difference;
      slack += factor * row_slack;
      counts.push_back(count);
    }
    const double draws = static_cast<double>(problem.draws), r = problem.beta * ell / draws;
    const double score = inputs.scores[sample], threshold = inputs.threshold[sample];
    const double v = inputs.sample_weight[sample], z = score >= threshold ? 1.0 : -1.0;
    const double w = v == 0.0 ? 0.0 : v * (1.0 + problem.confidence * fabs(score - threshold));
    weight.push_back(w);
    implicit_score.push_back(r);
    tolerance.push_back(problem.beta * slack / draws + 1e-12);
    const double value = w * log1p(exp(-z * r));
    total += value;
    if (problem.reduced == Reduced::none) loss.push_back(value);
    const double slope = -w * z / (1.0 + exp(z * r));
    for (int64_t draw = 0; draw < problem.draws; ++draw) {
      const int64_t row = sample * problem.draws + draw;
      coefficient.push_back(
          counts[draw] == 0.0 ? 0.0
                              : -share * slope * problem.beta / draws * inputs.timestep_weight[row] / problem.temperature *
                                    2.0 / counts[draw]);
    }
  }
  if (problem.reduced != Reduced::none) loss.push_back(share * total);
}

double Expected::gradient(const Inputs& inputs, int64_t row, int64_t i, double factor) const {
  const double m = inputs.weight(row, i);
  if (m == 0.0) return 0.0;
  const int64_t at = row * inputs.problem.elements + i;
  return factor * coefficient[row] * m *
         (read(inputs.problem.type, inputs.policy.data(), at) - read(inputs.problem.type, inputs.target.data(), at));
}

}  // namespace driver
