// Eight float lanes and their conversions from and to the three element types, for whatever instruction set the file
// that includes this is compiled for.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace tglo {
namespace TGLO_INSTRUCTION_SET {

constexpr int64_t lanes = 8;
typedef float Float8 __attribute__((vector_size(32)));
typedef uint32_t Bits8 __attribute__((vector_size(32)));
typedef uint16_t Half8 __attribute__((vector_size(16)));
typedef double Double4 __attribute__((vector_size(32)));

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

struct Float32 {
  typedef float Storage;
  static Float8 load(const float* from) { return load_raw<Float8>(from); }
  static void store(float* to, Float8 value) { memcpy(to, &value, sizeof(value)); }
};

struct BFloat16 {
  typedef uint16_t Storage;
  static Float8 load(const uint16_t* from) {
    return bit_cast<Float8>(__builtin_convertvector(load_raw<Half8>(from), Bits8) << 16);
  }
  static void store(uint16_t* to, Float8 value) {
    const Bits8 bits = bit_cast<Bits8>(value);
    const Bits8 rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;  // to nearest even
    const Bits8 is_nan = bit_cast<Bits8>(value != value);
    const Bits8 chosen = (rounded & ~is_nan) | (0x7fc0u & is_nan);  // rounding could carry a NaN into infinity
    const Half8 narrow = __builtin_convertvector(chosen, Half8);
    memcpy(to, &narrow, sizeof(narrow));
  }
};

struct Float16 {
  typedef uint16_t Storage;
#if defined(__F16C__)
  static Float8 load(const uint16_t* from) {
    return bit_cast<Float8>(_mm256_cvtph_ps(load_raw<__m128i>(from)));
  }
  static void store(uint16_t* to, Float8 value) {
    const __m128i narrow = _mm256_cvtps_ph(
        bit_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    memcpy(to, &narrow, sizeof(narrow));
  }
#else
  static Float8 load(const uint16_t* from) {
    const Bits8 half = __builtin_convertvector(load_raw<Half8>(from), Bits8);
    const Bits8 magnitude = half & 0x7fffu;
    // Shifted into a float's place the exponent is short by 112; the product puts it right, subnormals included.
    Bits8 bits = bit_cast<Bits8>(bit_cast<Float8>(magnitude << 13) * 0x1p112f);
    bits |= bit_cast<Bits8>(magnitude >= 0x7c00u) & 0x7f800000u;  // infinity and NaN
    return bit_cast<Float8>(bits | ((half & 0x8000u) << 16));
  }
  static void store(uint16_t* to, Float8 value) {
    const Bits8 bits = bit_cast<Bits8>(value);
    const Bits8 sign = (bits >> 16) & 0x8000u;
    const Bits8 magnitude = bits & 0x7fffffffu;
    // Normal: move the exponent's bias from 127 to 15 and round to nearest even; too large becomes infinity.
    Bits8 result = (magnitude - (112u << 23) + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    const Bits8 too_large = bit_cast<Bits8>(result > 0x7c00u);
    result = (result & ~too_large) | (0x7c00u & too_large);
    // Below 2^-14: adding 0.5 lets the float addition itself round at the subnormals' last bit.
    const Bits8 small = bit_cast<Bits8>(magnitude < (113u << 23));
    const Bits8 subnormal = bit_cast<Bits8>(bit_cast<Float8>(magnitude) + 0.5f) - 0x3f000000u;
    result = (result & ~small) | (subnormal & small);
    const Bits8 is_nan = bit_cast<Bits8>(magnitude > 0x7f800000u);
    result = (result & ~is_nan) | (0x7e00u & is_nan);
    const Half8 narrow = __builtin_convertvector(result | sign, Half8);
    memcpy(to, &narrow, sizeof(narrow));
  }
#endif
};

// The first `count` < lanes elements; the other lanes are zero.
template <class Type>
inline Float8 load_part(const typename Type::Storage* from, int64_t count) {
  typename Type::Storage buffer[lanes] = {};
  memcpy(buffer, from, static_cast<size_t>(count) * sizeof(buffer[0]));
  return Type::load(buffer);
}

template <class Type>
inline void store_part(typename Type::Storage* to, Float8 value, int64_t count) {
  typename Type::Storage buffer[lanes];
  Type::store(buffer, value);
  memcpy(to, buffer, static_cast<size_t>(count) * sizeof(buffer[0]));
}

// Float lanes are added up in double, lane by lane: the caller keeps short float sums, so their error stays small.
struct WideSum {
  Double4 low = {}, high = {};

  void add(Float8 value) {
    typedef float Float4 __attribute__((vector_size(16)));
    const Float4 first = __builtin_shufflevector(value, value, 0, 1, 2, 3);
    const Float4 second = __builtin_shufflevector(value, value, 4, 5, 6, 7);
    low += __builtin_convertvector(first, Double4);
    high += __builtin_convertvector(second, Double4);
  }

  double total() const {
    const Double4 both = low + high;
    return (both[0] + both[1]) + (both[2] + both[3]);
  }
};

}  // namespace TGLO_INSTRUCTION_SET
}  // namespace tglo
