// CPU kernel of the noising. Compiled once per instruction set, with TGLO_INSTRUCTION_SET naming the namespace.
#include "common/lanes.h"
#include "noise/cpu.h"
#include "noise/philox.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace tglo {
namespace TGLO_INSTRUCTION_SET {
namespace {

// The arithmetic of philox.h on vectors. A counter's word has a lane of 64 bits, so that products need no shuffles.
struct Vectors {
  typedef Floats Float;
  typedef tglo::TGLO_INSTRUCTION_SET::Bits Bits;
  typedef tglo::TGLO_INSTRUCTION_SET::Ints Ints;
  typedef uint64_t Word __attribute__((vector_size(vector_bytes)));
  typedef Word Wide;

  static Wide product(Word a, uint32_t b) {
    const Word all = Word{} + b;
#if defined(__AVX2__)
    return bit_cast<Wide>(_mm256_mul_epu32(bit_cast<__m256i>(a), bit_cast<__m256i>(all)));
#elif defined(__SSE2__)
    return bit_cast<Wide>(_mm_mul_epu32(bit_cast<__m128i>(a), bit_cast<__m128i>(all)));
#else
    return (a & 0xffffffffu) * all;
#endif
  }
  static Word high(Wide wide) { return wide >> 32; }
  static Word low(Wide wide) { return wide; }

  static Float convert(Ints numbers) { return __builtin_convertvector(numbers, Float); }
  static Float as_float(Bits bits) { return bit_cast<Float>(bits); }
  static Bits as_bits(Float value) { return bit_cast<Bits>(value); }
  static Ints as_ints(Bits bits) { return bit_cast<Ints>(bits); }

  static Float root(Float value) {
#if defined(__AVX2__)
    return bit_cast<Float>(_mm256_sqrt_ps(bit_cast<__m256>(value)));
#elif defined(__SSE2__)
    return bit_cast<Float>(_mm_sqrt_ps(bit_cast<__m128>(value)));
#else
    for (int64_t lane = 0; lane < half_lanes; ++lane) value[lane] = sqrtf(value[lane]);
    return value;
#endif
  }
};

constexpr int64_t pack_blocks = lanes / block_elements;
static_assert(sizeof(Vectors::Word) == pack_blocks * sizeof(uint64_t), "a vector of words makes one pack");

// True if packs of a type hold their elements in order, and not those of even index before those of odd (lanes.h).
template <class Type>
constexpr bool in_order = false;
template <>
constexpr bool in_order<Float32> = true;
#if defined(__F16C__)
template <>
constexpr bool in_order<Float16> = true;
#endif

// Normals of even and of odd index as packs of Type hold their elements.
template <class Type>
inline Pack arrange(Pair<Vectors> even_odd) {
  const Floats even = even_odd.first, odd = even_odd.second;
  if (!in_order<Type>) return {even, odd};
#if defined(__AVX2__)
  const __m256 a = bit_cast<__m256>(even), b = bit_cast<__m256>(odd);
  const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
  return {bit_cast<Floats>(_mm256_permute2f128_ps(low, high, 0x20)),
          bit_cast<Floats>(_mm256_permute2f128_ps(low, high, 0x31))};
#elif defined(__SSE2__)
  const __m128 a = bit_cast<__m128>(even), b = bit_cast<__m128>(odd);
  return {bit_cast<Floats>(_mm_unpacklo_ps(a, b)), bit_cast<Floats>(_mm_unpackhi_ps(a, b))};
#else
  Pack pack;
  for (int64_t lane = 0; lane < half_lanes; ++lane) {
    Floats& half = 2 * lane < half_lanes ? pack.first : pack.second;
    half[2 * lane % half_lanes] = even[lane];
    half[2 * lane % half_lanes + 1] = odd[lane];
  }
  return pack;
#endif
}

// Of a block's words, w0 and w2 give the radii and w1 and w3 the angles of two neighbours each. Side by side in one lane
// of 64 bits they stand as their normals are to stand in a pack.
inline Vectors::Bits side_by_side(Vectors::Word first, Vectors::Word second) {
  return bit_cast<Vectors::Bits>((first & 0xffffffffu) | (second << 32));
}

template <class Type>
inline Pack noise_of(Vectors::Word blocks, const NoiseRow& row) {
  const Vectors::Word zero = {};
  const FourWords<Vectors> counter = {
      {blocks, zero + row.draw, zero + (row.sample_id & 0xffffffffu), zero + (row.sample_id >> 32)}};
  const FourWords<Vectors> words = philox4x32<Vectors>(counter, {row.seed, row.purpose});
  return arrange<Type>(normal_pair<Vectors>(
      side_by_side(words.at[0], words.at[2]), side_by_side(words.at[1], words.at[3])));
}

inline Pack combine(Pack latents, Pack noise, const NoiseRow& row) {
  return latents * row.scale + noise * row.noise_scale;
}

template <class Type>
void diffuse(const void* latents, void* out, int64_t first, int64_t count, NoiseRow row) {
  typedef typename Type::Storage Storage;
  const Storage* x = static_cast<const Storage*>(latents);
  Storage* to = static_cast<Storage*>(out);
  Vectors::Word blocks = Vectors::Word{} + static_cast<uint64_t>(first / block_elements);
  for (int64_t lane = 0; lane < pack_blocks; ++lane) blocks[lane] += static_cast<uint64_t>(lane);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes, blocks += static_cast<uint64_t>(pack_blocks))
    Type::store(to + i, combine(Type::load(x + i), noise_of<Type>(blocks, row), row));
  if (const int64_t rest = count - i)
    store_part<Type>(to + i, combine(load_part<Type>(x + i, rest), noise_of<Type>(blocks, row), row), rest);
}

void diffuse_of(
    Element type, const void* latents, void* out, int64_t first, int64_t count, const NoiseRow& row) {
  with_lanes(type, [&]<class Type>() { diffuse<Type>(latents, out, first, count, row); });
}

}  // namespace

extern const CpuNoiseKernels cpu_noise_kernels = {diffuse_of};

}  // namespace TGLO_INSTRUCTION_SET
}  // namespace tglo
