// CPU kernels of the TGO loss. Compiled once per instruction set, with TGLO_INSTRUCTION_SET naming the namespace.
#include "lanes.h"
#include "launch.h"

namespace tglo {
namespace TGLO_INSTRUCTION_SET {
namespace {

// Float sums run over a block and then go to double: 32 terms per lane keep their rounding below 1e-8 of the row's sum.
constexpr int64_t block = lanes * 32;

struct FloatSums {
  Pack policy_error = {}, error_difference = {};

  template <bool with_reference>
  inline void add(Pack p, Pack y, Pack q) {
    const Floats first = p.first - y.first, second = p.second - y.second;
    policy_error.first += first * first;
    policy_error.second += second * second;
    if (with_reference) {
      error_difference.first += (p.first - q.first) * (first + (q.first - y.first));
      error_difference.second += (p.second - q.second) * (second + (q.second - y.second));
    }
  }
};

template <class Type>
inline void store_gradient(
    typename Type::Storage* to, float coefficient, Pack p, Pack y, int64_t count) {
  const Pack value = {coefficient * (p.first - y.first), coefficient * (p.second - y.second)};
  count == lanes ? Type::store(to, value) : store_part<Type>(to, value, count);
}

template <class Type, bool with_reference>
PartialSums sums(
    const typename Type::Storage* policy, const typename Type::Storage* target,
    const typename Type::Storage* reference, int64_t elements) {
  WideSum policy_error, error_difference;
  int64_t start = 0;
  while (start + lanes <= elements) {
    const int64_t end = elements - start < block ? elements : start + block;
    FloatSums part;
    for (; start + lanes <= end; start += lanes)
      part.add<with_reference>(
          Type::load(policy + start), Type::load(target + start),
          with_reference ? Type::load(reference + start) : Pack{});
    policy_error.add(part.policy_error);
    if (with_reference) error_difference.add(part.error_difference);
  }
  if (const int64_t rest = elements - start) {
    FloatSums last;
    last.add<with_reference>(
        load_part<Type>(policy + start, rest), load_part<Type>(target + start, rest),
        with_reference ? load_part<Type>(reference + start, rest) : Pack{});
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
  // A quiet NaN if any: BFloat16::round relies on it.
  const float c = coefficient == coefficient ? static_cast<float>(coefficient) : __builtin_nanf("");
  int64_t i = 0;
  for (; i + lanes <= elements; i += lanes)
    store_gradient<Type>(g + i, c, Type::load(p + i), Type::load(y + i), lanes);
  if (const int64_t rest = elements - i)
    store_gradient<Type>(g + i, c, load_part<Type>(p + i, rest), load_part<Type>(y + i, rest), rest);
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
