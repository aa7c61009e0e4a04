// The noising against Philox and Box-Muller written out plainly, known answers, and the CPU kernels' bits.
#include <math.h>
#include <string.h>

#include "cases.h"
#include "noise/cpu.h"
#include "noise/cuda.h"

namespace driver {
namespace {

// Philox4x32-10 as in Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
void philox(uint32_t counter[4], uint32_t key0, uint32_t key1) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0], product1 = uint64_t{0xCD9E8D57} * counter[2];
    const uint32_t next[4] = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
                              static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    memcpy(counter, next, sizeof(next));
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

// Random123's known answers.
void known_answers() {
  const uint32_t answers[3][10] = {
      {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
      {~0u, ~0u, ~0u, ~0u, ~0u, ~0u, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd},
      {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420,
       0x24126ea1}};
  begin_case("Philox's known answers");
  for (const auto& answer : answers) {
    uint32_t counter[4] = {answer[0], answer[1], answer[2], answer[3]};
    philox(counter, answer[4], answer[5]);
    const auto words = tglo::philox4x32<tglo::Scalar>({{answer[0], answer[1], answer[2], answer[3]}}, {answer[4], answer[5]});
    for (int k = 0; k < 4; ++k) {
      require(counter[k] == answer[6 + k], "the driver's word %d is %08x", k, counter[k]);
      require(words.at[k] == answer[6 + k], "csrc's word %d is %08x", k, words.at[k]);
    }
  }
}

double normal(uint32_t seed, uint32_t purpose, uint64_t sample, uint32_t draw, int64_t i) {
  uint32_t words[4] = {static_cast<uint32_t>(i / 4), draw, static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32)};
  philox(words, seed, purpose);
  const int pair = static_cast<int>(i % 4 / 2);
  const double unit = ((words[2 * pair] >> 9) + 0.5) * 0x1p-23;
  const double turns = ((words[2 * pair + 1] >> 8) | 1u) * 0x1p-24;
  const double radius = sqrt(-2.0 * log(unit)), angle = 2.0 * M_PI * turns;
  return radius * (i % 2 ? sin(angle) : cos(angle));
}

struct Row {
  float scale, noise_scale;
  int64_t sample, draw;
};

void run_case(tglo::Element type, int64_t rows, int64_t elements, size_t offset, uint64_t seed, bool streams) {
  begin_case(std::string("noise ") + name_of(type) + " " + std::to_string(rows) + "x" + std::to_string(elements) +
             (offset ? " misaligned" : ""));
  Random random(seed);
  const size_t bytes = static_cast<size_t>(rows * elements) * size_of(type);
  Buffer latents(bytes, offset);
  std::vector<float> scale, noise_scale;
  std::vector<int64_t> samples, draws;
  for (int64_t row = 0; row < rows; ++row) {
    scale.push_back(row % 2 ? static_cast<float>(random.uniform()) : 0.0f);
    noise_scale.push_back(row % 2 ? static_cast<float>(random.uniform()) : 1.0f);
    samples.push_back(static_cast<int64_t>((static_cast<uint64_t>(random.next()) << 32 | random.next()) >> 1));
    draws.push_back(random.next());
  }
  for (int64_t at = 0; at < rows * elements; ++at) write(type, latents.data(), at, random.spread());
  const uint32_t key = random.next(), purpose = random.next();
  const auto call = [&](Buffer& out, void* stream) {
    tglo::CudaDiffuse diffuse = {};
    diffuse.type = type;
    diffuse.latents = latents.data();
    diffuse.out = out.data();
    diffuse.rows = rows;
    diffuse.elements = elements;
    diffuse.scale = scale.data();
    diffuse.noise_scale = noise_scale.data();
    diffuse.sample_ids = samples.data();
    diffuse.draws = draws.data();
    diffuse.key = {key, purpose};
    diffuse.stream = stream;
    return tglo::launch_diffuse(diffuse);
  };
  Buffer out(bytes, offset);
  int failed = call(out, nullptr);
  require(failed == 0 && out.intact(), "error %d, or writes beside the output", failed);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t i = 0; i < elements; ++i) {
      const int64_t at = row * elements + i;
      const double value = scale[row] * read(type, latents.data(), at) +
                           noise_scale[row] * normal(key, purpose, static_cast<uint64_t>(samples[row]),
                                                     static_cast<uint32_t>(draws[row]), i);
      require_close(read(type, out.data(), at), value, 1.01 * rounding(type, value) + 4e-6, "noised", at);
    }
  const std::vector<char> first = out.bytes();
  Buffer cpu(bytes);
  for (int64_t row = 0; row < rows; ++row) {
    const tglo::NoiseRow noise = {scale[row], noise_scale[row], static_cast<uint64_t>(samples[row]),
                                  static_cast<uint32_t>(draws[row]), key, purpose};
    const size_t start = static_cast<size_t>(row * elements) * size_of(type);
    tglo::baseline::cpu_noise_kernels.diffuse(type, latents.data<char>() + start, cpu.data<char>() + start, 0, elements, noise);
  }
  require(cpu.bytes() == first, "other bits than the CPU's");
  as_graph([&](void* stream) { return call(out, stream); }, [&] { out.poison(); },
           [&](int error) { require(error == 0 && out.bytes() == first, "graph: error %d, or other bits", error); });
  if (!streams) return;
  on_two_streams([&](int, void* stream) {
    Buffer own(bytes, offset);
    const int error = call(own, stream);
    require(error == 0 && own.bytes() == first, "two streams: error %d, or other bits", error);
  });
}

}  // namespace

void noise_cases(const Amount& amount) {
  known_answers();
  constexpr int64_t elements[] = {1, 3, 4, 7, 8, 9, 2040, 2048, 2051, 5000}, rows[] = {1, 2, 5, 33};
  for (int number = 0; number < amount.noise_cases; ++number) {
    Random random(static_cast<uint64_t>(number) + 77);
    const auto type = static_cast<tglo::Element>(number % 3);
    const int64_t many = elements[random.below(10)], count = rows[random.below(4)];
    run_case(type, many > 100 && count > 5 && amount.noise_cases < 100 ? 5 : count, many,
             number / 3 % 2 ? size_of(type) : 0, static_cast<uint64_t>(number), number % 4 == 0);
  }
  if (amount.noise_cases >= 100) run_case(tglo::Element::float32, 65537, 1, 0, 5, false);
}

}  // namespace driver
