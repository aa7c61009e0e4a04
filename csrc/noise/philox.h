// The random streams of tglo/philox.py for C++ and CUDA: Philox4x32-10 (Salmon et al., SC 2011) and Box-Muller.
// The same bits everywhere: float32 products, sums and square roots only, each rounded on its own, in the order of
// tglo/philox.py, which says where the coefficients come from. Compile with -ffp-contract=off, CUDA with -fmad=false.
//
// Written once over the arithmetic A: numbers (Scalar) or vectors of them (cpu.cpp). Nothing branches.
#pragma once

#include <math.h>
#include <string.h>

#include "common/launch.h"

namespace tglo {

constexpr int64_t block_elements = 4;
constexpr int64_t most_elements = int64_t{1} << 34;  // of a row: the block has one word of the counter

struct PhiloxKey {
  uint32_t seed, purpose;
};

struct Scalar {
  typedef float Float;
  typedef uint32_t Bits;
  typedef int32_t Ints;
  typedef uint32_t Word;  // of a counter; may have more bits than 32, of which the upper ones mean nothing
  typedef uint64_t Wide;

  TGLO_HOST_DEVICE static Wide product(Word a, uint32_t b) { return static_cast<Wide>(a) * b; }
  TGLO_HOST_DEVICE static Word high(Wide wide) { return static_cast<Word>(wide >> 32); }
  TGLO_HOST_DEVICE static Word low(Wide wide) { return static_cast<Word>(wide); }
  TGLO_HOST_DEVICE static Float convert(Ints number) { return static_cast<float>(number); }
#ifdef __CUDA_ARCH__
  __device__ static Float as_float(Bits bits) { return __uint_as_float(bits); }
  __device__ static Bits as_bits(Float value) { return __float_as_uint(value); }
  __device__ static Float root(Float value) { return __fsqrt_rn(value); }
#else
  static Float as_float(Bits bits) {
    Float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
  }
  static Bits as_bits(Float value) {
    Bits bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
  }
  static Float root(Float value) { return sqrtf(value); }
#endif
  TGLO_HOST_DEVICE static Ints as_ints(Bits bits) { return static_cast<Ints>(bits); }
};

template <class A>
struct FourWords {
  typename A::Word at[4];
};

template <class A>
TGLO_HOST_DEVICE inline FourWords<A> philox4x32(FourWords<A> counter, PhiloxKey key) {
  typename A::Word c0 = counter.at[0], c1 = counter.at[1], c2 = counter.at[2], c3 = counter.at[3];
#if defined(__CUDA_ARCH__)
#pragma unroll
#elif !defined(__CUDACC__)  // nvcc knows neither spelling when it compiles for the host
#pragma GCC unroll 10
#endif
  for (uint32_t round = 0; round < 10; ++round) {
    const typename A::Wide product0 = A::product(c0, 0xD2511F53u), product1 = A::product(c2, 0xCD9E8D57u);
    c0 = A::high(product1) ^ c1 ^ (key.seed + round * 0x9E3779B9u);
    c2 = A::high(product0) ^ c3 ^ (key.purpose + round * 0xBB67AE85u);
    c1 = A::low(product1);
    c3 = A::low(product0);
  }
  return {{c0, c1, c2, c3}};
}

// sqrt(-2 ln u) with u = (word / 2^9 + 1/2) / 2^23 = 2^exponent (1 + f), 1 + f in [sqrt(1/2), sqrt(2))
template <class A>
TGLO_HOST_DEVICE inline typename A::Float radius_of(typename A::Bits word) {
  typedef typename A::Float Float;
  constexpr uint32_t sqrt_half = 0x3F3504F3u;
  const Float unit = (A::convert(A::as_ints(word >> 9)) + 0.5f) * 0x1p-23f;
  const typename A::Bits offset = A::as_bits(unit) - sqrt_half;
  const Float exponent = A::convert(A::as_ints(offset) >> 23);
  const Float f = A::as_float((offset & 0x7FFFFFu) + sqrt_half) - 1.0f;
  Float log = f * -0.076344974f;
  log = (log + 0.12761578f) * f;
  log = (log + -0.13160183f) * f;
  log = (log + 0.14201757f) * f;
  log = (log + -0.16623357f) * f;
  log = (log + 0.20001227f) * f;
  log = (log + -0.2500082f) * f;
  log = (log + 0.3333333f) * f;
  log = (log + -0.5f) * (f * f);
  log = log + exponent * -2.1219444e-4f;
  log = log + f;
  log = log + exponent * 0.693359375f;
  return A::root(log * -2.0f);
}

template <class A>
struct Pair {
  typename A::Float first, second;
};

// radius cos(2 pi u) and radius sin(2 pi u), where 2 pi u = pi/2 (quadrant + r) with r in [-1/2, 1/2]
template <class A>
TGLO_HOST_DEVICE inline Pair<A> normal_pair(typename A::Bits radius_word, typename A::Bits angle_word) {
  typedef typename A::Float Float;
  typedef typename A::Bits Bits;
  const typename A::Ints odd = A::as_ints((angle_word >> 8) | 1u);  // 4u = odd / 2^22
  const typename A::Ints quadrant = (odd + (1 << 21)) >> 22;        // the nearest integer: odd is never halfway
  const Float r = A::convert(odd - (quadrant << 22)) * 0x1p-22f;
  const Float square = r * r;
  Float sine = square * -0.004685254f;
  sine = (sine + 0.07971227f) * square;
  sine = (sine + -0.64596665f) * square;
  sine = (sine + 1.5707964f) * r;
  Float cosine = square * 0.00090402167f;
  cosine = (cosine + -0.020860288f) * square;
  cosine = (cosine + 0.25366923f) * square;
  cosine = (cosine + -1.2337005f) * square;
  cosine = cosine + 1.0f;
  // An odd quadrant swaps the two; each has a sign. With bits alone, since both may be vectors.
  const Bits turn = (Bits)quadrant;
  const Bits difference = (A::as_bits(sine) ^ A::as_bits(cosine)) & (0u - (turn & 1u));
  const Bits first_sign = ((turn + 1u) & 2u) << 30, second_sign = (turn & 2u) << 30;
  const Float radius = radius_of<A>(radius_word);
  return {
      A::as_float(A::as_bits(cosine) ^ difference ^ first_sign) * radius,
      A::as_float(A::as_bits(sine) ^ difference ^ second_sign) * radius};
}

}  // namespace tglo
