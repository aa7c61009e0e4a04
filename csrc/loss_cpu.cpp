// CPU kernels of the TGO loss. Compiled once per instruction set, with TGLO_INSTRUCTION_SET naming the namespace.
#include "lanes.h"
#include "launch.h"

namespace tglo {
namespace TGLO_INSTRUCTION_SET {
namespace {

// Float sums run over this many vectors per accumulator before they go to double: 32 terms per lane.
constexpr int64_t accumulators = 4;
constexpr int64_t vectors_per_accumulator = 32;
constexpr int64_t block = lanes * accumulators * vectors_per_accumulator;

struct FloatSums {
  Float8 policy_error = {}, error_difference = {};

  template <bool with_reference>
  inline void add(Float8 p, Float8 y, Float8 q) {
    const Float8 from_target = p - y;
    policy_error += from_target * from_target;
    if (with_reference) error_difference += (p - q) * (from_target + (q - y));
  }
};

template <class Type, bool with_reference>
PartialSums sums(
    const typename Type::Storage* policy, const typename Type::Storage* target,
    const typename Type::Storage* reference, int64_t elements) {
  WideSum policy_error, error_difference;
  int64_t start = 0;
  while (start + lanes <= elements) {
    const int64_t end = elements - start < block ? elements : start + block;
    FloatSums parts[accumulators];
    int64_t i = start;
    for (; i + accumulators * lanes <= end; i += accumulators * lanes) {
      for (int64_t a = 0; a < accumulators; ++a) {
        const int64_t at = i + a * lanes;
        parts[a].template add<with_reference>(
            Type::load(policy + at), Type::load(target + at),
            with_reference ? Type::load(reference + at) : Float8{});
      }
    }
    for (int64_t a = 0; i + lanes <= end; i += lanes, ++a) {
      parts[a].template add<with_reference>(
          Type::load(policy + i), Type::load(target + i),
          with_reference ? Type::load(reference + i) : Float8{});
    }
    for (int64_t a = 0; a < accumulators; ++a) {
      policy_error.add(parts[a].policy_error);
      if (with_reference) error_difference.add(parts[a].error_difference);
    }
    start = i;
  }
  if (const int64_t rest = elements - start) {
    FloatSums last;
    last.add<with_reference>(
        load_part<Type>(policy + start, rest), load_part<Type>(target + start, rest),
        with_reference ? load_part<Type>(reference + start, rest) : Float8{});
    policy_error.add(last.policy_error);
    if (with_reference) error_difference.add(last.error_difference);
  }
  return {policy_error.total(), error_difference.total()};
}

template <class Type>
PartialSums choose_sums(
    const void* policy, const void* target, const void* reference, int64_t elements) {
  typedef const typename Type::Storage* Pointer;
  const Pointer p = static_cast<Pointer>(policy), y = static_cast<Pointer>(target);
  return reference ? sums<Type, true>(p, y, static_cast<Pointer>(reference), elements)
                   : sums<Type, false>(p, y, nullptr, elements);
}

template <class Type>
void gradient(
    const void* policy, const void* target, void* out, int64_t elements, double coefficient) {
  typedef typename Type::Storage Storage;
  const Storage *p = static_cast<const Storage*>(policy), *y = static_cast<const Storage*>(target);
  Storage* g = static_cast<Storage*>(out);
  const float c = static_cast<float>(coefficient);
  int64_t i = 0;
  for (; i + lanes <= elements; i += lanes)
    Type::store(g + i, c * (Type::load(p + i) - Type::load(y + i)));
  if (const int64_t rest = elements - i)
    store_part<Type>(g + i, c * (load_part<Type>(p + i, rest) - load_part<Type>(y + i, rest)), rest);
}

PartialSums sums_of(
    Element type, const void* policy, const void* target, const void* reference, int64_t elements) {
  switch (type) {
    case Element::bfloat16: return choose_sums<BFloat16>(policy, target, reference, elements);
    case Element::float16: return choose_sums<Float16>(policy, target, reference, elements);
    case Element::float32: return choose_sums<Float32>(policy, target, reference, elements);
  }
  __builtin_unreachable();
}

void gradient_of(
    Element type, const void* policy, const void* target, void* out, int64_t elements,
    double coefficient) {
  switch (type) {
    case Element::bfloat16: return gradient<BFloat16>(policy, target, out, elements, coefficient);
    case Element::float16: return gradient<Float16>(policy, target, out, elements, coefficient);
    case Element::float32: return gradient<Float32>(policy, target, out, elements, coefficient);
  }
}

}  // namespace

extern const CpuKernels cpu_kernels = {sums_of, gradient_of};

}  // namespace TGLO_INSTRUCTION_SET
}  // namespace tglo
