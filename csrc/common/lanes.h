// Float lanes and their conversions from and to the three element types, for whatever instruction set the file
// that includes this is compiled for.
#pragma once

#include <stdint.h>
#include <string.h>

#include "common/launch.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tglo {
namespace TGLO_INSTRUCTION_SET {

// As wide as the registers: compilers lower wider vectors badly.
#if defined(__AVX2__)
constexpr int64_t vector_bytes = 32;
#else
constexpr int64_t vector_bytes = 16;
#endif
typedef float Floats __attribute__((vector_size(vector_bytes)));
typedef uint32_t Bits __attribute__((vector_size(vector_bytes)));
typedef int32_t Ints __attribute__((vector_size(vector_bytes)));  // SSE2 compares signed numbers only
typedef double Doubles __attribute__((vector_size(vector_bytes)));

constexpr int64_t half_lanes = vector_bytes / 4;
constexpr int64_t lanes = 2 * half_lanes;  // of a Pack

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <class Vector>
inline Vector load_raw(const void* from) {
  Vector vector;
  memcpy(&vector, from, sizeof(Vector));
  return vector;
}

// Neighbouring numbers as two vectors. Of 16-bit types `first` has the elements of even index and `second` those of odd
// index: two neighbours share a 32-bit word, so they come apart and together with shifts and masks alone, on any
// instruction set. Sums and elementwise work do not ask which lane holds which element.
struct Pack {
  Floats first, second;
};

inline Pack operator+(Pack a, Pack b) { return {a.first + b.first, a.second + b.second}; }
inline Pack operator-(Pack a, Pack b) { return {a.first - b.first, a.second - b.second}; }
inline Pack operator*(Pack a, Pack b) { return {a.first * b.first, a.second * b.second}; }
inline Pack operator-(Pack a, float b) { return {a.first - b, a.second - b}; }
inline Pack operator*(Pack a, float b) { return {a.first * b, a.second * b}; }
inline Pack& operator+=(Pack& a, Pack b) { return a = a + b; }

struct Float32 {
  typedef float Storage;
  static Pack load(const float* from) {
    return {load_raw<Floats>(from), load_raw<Floats>(from + half_lanes)};
  }
  static void store(float* to, Pack value) { memcpy(to, &value, sizeof(value)); }
  static Pack arrange(const float* from) { return load(from); }
};

// Floats in the order of BFloat16's lanes.
inline Pack even_and_odd(const float* from) {
  Pack pack;
  for (int64_t lane = 0; lane < half_lanes; ++lane) {
    pack.first[lane] = from[2 * lane];
    pack.second[lane] = from[2 * lane + 1];
  }
  return pack;
}

struct BFloat16 {
  typedef uint16_t Storage;
  static Pack load(const uint16_t* from) {
    const Bits words = load_raw<Bits>(from);
    return {bit_cast<Floats>(words << 16), bit_cast<Floats>(words & 0xffff0000u)};
  }
  static void store(uint16_t* to, Pack value) {
    const Bits words = (round(value.first) >> 16) | (round(value.second) & 0xffff0000u);
    memcpy(to, &words, sizeof(words));
  }
  static Pack arrange(const float* from) { return even_and_odd(from); }

 private:
  // To nearest even, in the upper half. The carry cannot turn a NaN into infinity: a NaN that comes out of arithmetic on
  // bfloat16 numbers or is the default one has zeros in its lower half.
  static Bits round(Floats value) {
    const Bits bits = bit_cast<Bits>(value);
    return bits + 0x7fffu + ((bits >> 16) & 1u);
  }
};

struct Float16 {
  typedef uint16_t Storage;
#if defined(__F16C__)
  static Pack load(const uint16_t* from) {
    return {bit_cast<Floats>(_mm256_cvtph_ps(load_raw<__m128i>(from))),
            bit_cast<Floats>(_mm256_cvtph_ps(load_raw<__m128i>(from + 8)))};
  }
  static void store(uint16_t* to, Pack value) {
    constexpr int mode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const __m128i halves[2] = {_mm256_cvtps_ph(bit_cast<__m256>(value.first), mode),
                               _mm256_cvtps_ph(bit_cast<__m256>(value.second), mode)};
    memcpy(to, halves, sizeof(halves));
  }
  static Pack arrange(const float* from) { return Float32::load(from); }
#else
  static Pack load(const uint16_t* from) {
    const Bits words = load_raw<Bits>(from);
    return {widen(words & 0xffffu), widen(words >> 16)};
  }
  static void store(uint16_t* to, Pack value) {
    const Bits words = narrow(value.first) | (narrow(value.second) << 16);
    memcpy(to, &words, sizeof(words));
  }
  static Pack arrange(const float* from) { return even_and_odd(from); }

 private:
  static Floats widen(Bits half) {
    const Bits magnitude = half & 0x7fffu;
    // Shifted into a float's place the exponent is short by 112; the product puts it right, subnormals included.
    Bits bits = bit_cast<Bits>(bit_cast<Floats>(magnitude << 13) * 0x1p112f);
    bits |= bit_cast<Bits>(bit_cast<Ints>(magnitude) >= 0x7c00) & 0x7f800000u;  // infinity and NaN
    return bit_cast<Floats>(bits | ((half & 0x8000u) << 16));
  }
  static Bits narrow(Floats value) {
    const Bits bits = bit_cast<Bits>(value);
    const Bits magnitude = bits & 0x7fffffffu;
    const Ints ordered = bit_cast<Ints>(magnitude);
    // Normal: move the exponent's bias from 127 to 15 and round to nearest even.
    Bits result = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    // From 65520 up: infinity.
    const Bits too_large = bit_cast<Bits>(ordered >= 0x477ff000);
    result = (result & ~too_large) | (too_large & 0x7c00u);
    // Below 2^-14: adding 0.5 lets the float addition itself round at the subnormals' last bit.
    const Bits small = bit_cast<Bits>(ordered < (113 << 23));
    const Bits subnormal = bit_cast<Bits>(bit_cast<Floats>(magnitude) + 0.5f) - 0x3f000000u;
    result = (result & ~small) | (small & subnormal);
    const Bits is_nan = bit_cast<Bits>(ordered > 0x7f800000);
    result = (result & ~is_nan) | (is_nan & 0x7e00u);
    return result | ((bits >> 16) & 0x8000u);
  }
#endif
};

// `value`, and +0 in the lanes whose weight is 0, whatever the value is there.
inline Floats where_counted(Floats weight, Floats value) {
  return bit_cast<Floats>(bit_cast<Bits>(value) & bit_cast<Bits>(weight != 0.0f));
}

// weight * value, and 0 where the weight is 0.
inline Pack weighted(Pack weight, Pack value) {
  return weight * Pack{where_counted(weight.first, value.first), where_counted(weight.second, value.second)};
}

// The first `count` < lanes elements; the other lanes are zero.
template <class Type>
inline Pack load_part(const typename Type::Storage* from, int64_t count) {
  typename Type::Storage buffer[lanes] = {};
  memcpy(buffer, from, static_cast<size_t>(count) * sizeof(buffer[0]));
  return Type::load(buffer);
}

template <class Type>
inline void store_part(typename Type::Storage* to, Pack value, int64_t count) {
  typename Type::Storage buffer[lanes];
  Type::store(buffer, value);
  memcpy(to, buffer, static_cast<size_t>(count) * sizeof(buffer[0]));
}

// Float lanes are added up in double, lane by lane: the caller keeps short float sums, so their error stays small.
struct WideSum {
  Doubles low = {}, high = {};

  void add(Pack pack) {
    add(pack.first);
    add(pack.second);
  }

  double total() const {
    const Doubles both = low + high;
    double sum = 0.0;
    for (int64_t lane = 0; lane < vector_bytes / 8; ++lane) sum += both[lane];
    return sum;
  }

 private:
  void add(Floats value) {
    typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));
    HalfFloats halves[2];
    memcpy(halves, &value, sizeof(value));
    low += __builtin_convertvector(halves[0], Doubles);
    high += __builtin_convertvector(halves[1], Doubles);
  }
};

// Calls body.template operator()<Type>() with the lanes of an element type.
template <class Body>
auto with_lanes(Element type, const Body& body) {
  switch (type) {
    case Element::bfloat16: return body.template operator()<BFloat16>();
    case Element::float16: return body.template operator()<Float16>();
    case Element::float32: return body.template operator()<Float32>();
  }
  __builtin_unreachable();
}

}  // namespace TGLO_INSTRUCTION_SET
}  // namespace tglo
