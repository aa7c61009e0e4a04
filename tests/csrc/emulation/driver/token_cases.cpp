// Log-probabilities of tokens and their gradient against float64. The CPU has an exponential of its own, so that its bits
// are other ones.
#include <math.h>

#include <algorithm>

#include "cases.h"
#include "tokens/cuda.h"

namespace driver {
namespace {

struct Chunk {
  int64_t rows, vocabulary, first, count, positions;
  bool biased;
  size_t offset;
  Buffer logits, bias;
  std::vector<int64_t> targets, order;
  std::vector<float> grad;

  Chunk(int64_t row_count, int64_t words, bool with_bias, size_t by, uint64_t seed)
      : rows(row_count), vocabulary(words), first(3), count(first + std::max<int64_t>(row_count - 1, 0)),
        positions(row_count + 6), biased(with_bias), offset(by), logits(sizeof(float) * rows * vocabulary, offset),
        bias(sizeof(float) * vocabulary, offset) {
    Random random(seed);
    for (int64_t i = 0; i < vocabulary; ++i) bias.data<float>()[i] = static_cast<float>(random.spread());
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t i = 0; i < vocabulary; ++i) {
        float value = static_cast<float>(8.0 * random.spread());
        if (i && random.below(50) == 0) value = -INFINITY;
        logits.data<float>()[row * vocabulary + i] = real(row) ? value : NAN;
      }
    for (int64_t position = 0; position < positions; ++position) {
      order.push_back((position * 5 + 1) % positions);  // a permutation where 5 does not divide
      targets.push_back(position % 7 == 6 ? vocabulary + 2 : random.below(vocabulary));
      grad.push_back(static_cast<float>(random.spread()));
    }
    if (positions % 5 == 0)
      for (int64_t position = 0; position < positions; ++position) order[position] = positions - 1 - position;
  }

  // The last row stands for no position.
  bool real(int64_t row) const { return first + row < count; }
  double logit(int64_t row, int64_t i) const {
    return biased ? static_cast<double>(logits.data<float>()[row * vocabulary + i] + bias.data<float>()[i])
                  : static_cast<double>(logits.data<float>()[row * vocabulary + i]);
  }
  double logsumexp(int64_t row) const {
    double largest = -INFINITY, sum = 0.0;
    for (int64_t i = 0; i < vocabulary; ++i) largest = std::max(largest, logit(row, i));
    for (int64_t i = 0; i < vocabulary; ++i) sum += exp(logit(row, i) - largest);
    return largest + log(sum);
  }
  tglo::CudaTokens describe(void* stream) const {
    tglo::CudaTokens tokens = {};
    tglo::TokenRows& chunk = tokens.chunk;
    chunk.logits = logits.data<float>();
    chunk.bias = biased ? bias.data<float>() : nullptr;
    chunk.targets = targets.data();
    chunk.order = order.data();
    chunk.count = &count;
    chunk.first = first;
    chunk.rows = rows;
    chunk.vocabulary = vocabulary;
    tokens.stream = stream;
    return tokens;
  }
};

std::vector<char> run_forward(const Chunk& chunk, Buffer& log_prob, Buffer& logsumexp, void* stream, int* error) {
  tglo::CudaTokens tokens = chunk.describe(stream);
  tokens.chunk.log_prob = log_prob.data<float>();
  tokens.chunk.logsumexp = logsumexp.data<float>();
  *error = tglo::launch_token_rows(tokens);
  std::vector<char> all = log_prob.bytes();
  const std::vector<char> other = logsumexp.bytes();
  all.insert(all.end(), other.begin(), other.end());
  return all;
}

void check_forward(const Chunk& chunk, const Buffer& log_prob, const Buffer& logsumexp) {
  std::vector<bool> written(chunk.positions, false);
  for (int64_t row = 0; row < chunk.rows; ++row) {
    if (!chunk.real(row)) continue;
    const int64_t position = chunk.order[chunk.first + row], token = chunk.targets[position];
    written[position] = true;
    const double lse = chunk.logsumexp(row), picked = token < chunk.vocabulary ? chunk.logit(row, token) - lse : NAN;
    require_close(logsumexp.data<float>()[position], lse, 2e-6 + 1.2e-7 * fabs(lse), "logsumexp", position);
    if (isinf(picked)) require(log_prob.data<float>()[position] == -INFINITY, "log_prob of a logit of -inf");
    else require_close(log_prob.data<float>()[position], picked, 2e-6 + 1.2e-7 * fabs(picked), "log_prob", position);
  }
  for (int64_t position = 0; position < chunk.positions; ++position)
    if (!written[position])
      require(log_prob.data<int32_t>()[position] == -1 && logsumexp.data<int32_t>()[position] == -1,
              "position %lld is written, but is none of the chunk's", static_cast<long long>(position));
}

void check_gradient(const Chunk& chunk, const Buffer& logsumexp, const Buffer& gradient, tglo::Element type) {
  for (int64_t row = 0; row < chunk.rows; ++row)
    for (int64_t i = 0; i < chunk.vocabulary; ++i) {
      const int64_t at = row * chunk.vocabulary + i;
      double value = 0.0, scale = 0.0;
      if (chunk.real(row)) {
        const int64_t position = chunk.order[chunk.first + row];
        scale = chunk.grad[position];
        value = scale * ((i == chunk.targets[position]) - exp(chunk.logit(row, i) - logsumexp.data<float>()[position]));
      }
      require_close(read(type, gradient.data(), at), value,
                    chunk.real(row) ? 2e-6 * fabs(scale) + 1.01 * rounding(type, value) : 0.0, "gradient of a logit", at);
    }
}

void run_case(const Chunk& chunk, tglo::Element type, bool in_place, bool streams) {
  begin_case("tokens " + std::to_string(chunk.rows) + "x" + std::to_string(chunk.vocabulary) + " " + name_of(type) +
             (chunk.biased ? " bias" : "") + (chunk.offset ? " misaligned" : "") + (in_place ? " in place" : ""));
  Buffer log_prob(sizeof(float) * chunk.positions), logsumexp(sizeof(float) * chunk.positions);
  int error = 0;
  const std::vector<char> first = run_forward(chunk, log_prob, logsumexp, nullptr, &error);
  require(error == 0 && log_prob.intact() && logsumexp.intact(), "error %d, or writes beside the results", error);
  check_forward(chunk, log_prob, logsumexp);
  require(run_forward(chunk, log_prob, logsumexp, nullptr, &error) == first, "other bits than the first time");

  const size_t bytes = static_cast<size_t>(chunk.rows * chunk.vocabulary) * size_of(type);
  const auto backward = [&](Buffer& gradient, void* stream) {
    return tglo::launch_token_rows_gradient(
        chunk.describe(stream), logsumexp.data<float>(), chunk.grad.data(), gradient.data(), type);
  };
  Buffer gradient(bytes, chunk.offset ? size_of(type) : 0);
  error = backward(gradient, nullptr);
  require(error == 0 && gradient.intact(), "gradient: error %d, or writes beside it", error);
  check_gradient(chunk, logsumexp, gradient, type);
  const std::vector<char> bits = gradient.bytes();
  as_graph([&](void* stream) { return backward(gradient, stream); }, [&] { gradient.poison(); },
           [&](int failed) { require(failed == 0 && gradient.bytes() == bits, "graph: error %d, or other bits", failed); });
  if (streams)
    on_two_streams([&](int, void* stream) {
      Buffer own(bytes, chunk.offset ? size_of(type) : 0);
      const int failed = backward(own, stream);
      require(failed == 0 && own.bytes() == bits, "two streams: error %d, or other bits", failed);
    });
  if (in_place) {
    Buffer& logits = const_cast<Buffer&>(chunk.logits);
    error = backward(logits, nullptr);
    require(error == 0 && logits.intact() && logits.bytes() == bits, "in place: error %d, or other bits", error);
  }
}

}  // namespace

void token_cases(const Amount& amount) {
  constexpr int64_t vocabularies[] = {1, 7, 8, 9, 255, 2048, 2056, 4100, 32000}, rows[] = {0, 1, 2, 5, 33};
  for (int number = 0; number < amount.token_cases; ++number) {
    Random random(static_cast<uint64_t>(number) + 99);
    int64_t vocabulary = vocabularies[random.below(9)], count = rows[number % 5];
    if (vocabulary * count > 40000) count = 1;
    const auto type = static_cast<tglo::Element>(number % 3);
    const bool misaligned = number / 2 % 2;
    const Chunk chunk(count, vocabulary, number % 2, misaligned ? sizeof(float) : 0, static_cast<uint64_t>(number));
    run_case(chunk, type, type == tglo::Element::float32, number % 4 == 0);
  }
}

}  // namespace driver
