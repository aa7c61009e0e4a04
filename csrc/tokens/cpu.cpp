// CPU kernels of the token losses. Compiled once per instruction set, with TGLO_INSTRUCTION_SET naming the namespace.
#include <float.h>
#include <math.h>

#include "common/lanes.h"
#include "tokens/rows.h"

namespace tglo {
namespace TGLO_INSTRUCTION_SET {
namespace {

// Float sums run over a block and then go to double.
constexpr int64_t block = lanes * 16;

// exp(x) to two units in the last place: 2^n times the series of exp(r), |r| <= log(2) / 2. Below the smallest normal
// number it is 0, and NaN stays NaN. x is at most about 0 here, so nothing overflows.
inline Floats exponential(Floats x) {
  constexpr float round = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer in the lowest bits
  const Floats shifted = x * 1.44269504f + round;
  const Floats n = shifted - round;
  const Floats r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // log(2) in two parts, the first one short
  Floats p = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  p = p * r + 1.0f / 120.0f;
  p = p * r + 1.0f / 24.0f;
  p = p * r + 1.0f / 6.0f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Bits power = (bit_cast<Bits>(shifted) << 23) + (127u << 23);
  const Floats value = p * bit_cast<Floats>(power);
  const Bits vanishes = bit_cast<Bits>(x < -87.3f);
  return bit_cast<Floats>(bit_cast<Bits>(value) & ~vanishes);
}

inline Pack exponential(Pack x) { return {exponential(x.first), exponential(x.second)}; }

inline Floats greater(Floats a, Floats b) { return a > b ? a : b; }

// Logits of a row with the bias; beyond the vocabulary they are the lowest number, whose exponential is 0.
struct Row {
  const float *logits, *bias;
  int64_t vocabulary;

  Pack at(int64_t i) const {
    const Pack x = Float32::load(logits + i);
    return bias ? x + Float32::load(bias + i) : x;
  }

  Pack rest(int64_t i) const {
    float buffer[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane) buffer[lane] = i + lane < vocabulary ? one(i + lane) : -FLT_MAX;
    return Float32::load(buffer);
  }

  float one(int64_t i) const { return bias ? logits[i] + bias[i] : logits[i]; }
};

float largest_of(const Row& row) {
  Floats most = Floats{} - FLT_MAX;
  const auto take = [&](Pack x) { most = greater(greater(x.first, x.second), most); };
  int64_t i = 0;
  for (; i + lanes <= row.vocabulary; i += lanes) take(row.at(i));
  if (i < row.vocabulary) take(row.rest(i));
  float largest = -FLT_MAX;
  for (int64_t lane = 0; lane < half_lanes; ++lane) largest = most[lane] > largest ? most[lane] : largest;
  return largest;
}

// sum exp(x - largest)
double sum_of(const Row& row, float largest) {
  WideSum total;
  int64_t i = 0;
  while (i < row.vocabulary) {
    const int64_t end = row.vocabulary - i < block ? row.vocabulary : i + block;
    Pack part = {};
    for (; i + lanes <= end; i += lanes) part += exponential(row.at(i) - largest);
    if (end == row.vocabulary && i < end) {
      part += exponential(row.rest(i) - largest);
      i = end;
    }
    total.add(part);
  }
  return total.total();
}

TokenRow log_prob_of(const float* logits, const float* bias, int64_t vocabulary, int64_t token) {
  const Row row = {logits, bias, vocabulary};
  const float largest = largest_of(row);
  const double rest = log(sum_of(row, largest));
  const bool known = token >= 0 && token < vocabulary;
  const double picked = known ? static_cast<double>(row.one(token)) - static_cast<double>(largest) : NAN;
  return {static_cast<float>(picked - rest), static_cast<float>(static_cast<double>(largest) + rest)};
}

void gradient_of(
    const float* logits, const float* bias, float* gradient, int64_t vocabulary, int64_t token, float logsumexp,
    float scale) {
  const Row row = {logits, bias, vocabulary};
  const auto value = [&](Pack x) { return exponential(x - logsumexp) * -scale; };
  int64_t i = 0;
  for (; i + lanes <= vocabulary; i += lanes) Float32::store(gradient + i, value(row.at(i)));
  if (i < vocabulary) store_part<Float32>(gradient + i, value(row.rest(i)), vocabulary - i);
  if (token >= 0 && token < vocabulary) gradient[token] += scale;
}

}  // namespace

extern const CpuTokenKernels cpu_token_kernels = {log_prob_of, gradient_of};

}  // namespace TGLO_INSTRUCTION_SET
}  // namespace tglo
